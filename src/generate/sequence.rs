//! A sequence in a slot of a runner: its prompt, its answer, and when that ends.

use super::decode::Row;
use super::generator::FinishReason;
use super::hook::LogitsHook;
use super::options::GenerateOptions;
use super::runner::{Runner, Want};
use super::sampler::Sampler;
use crate::error::{Error, Result};
use crate::formula::NO_INDEX;
use crate::gpu::Pending;
use crate::models::Model;
use crate::nn::Report;

/// The most tokens of an answer that room is made for at once.
const ROOM: usize = 1024;

/// A token, or the promise of one.
pub(super) enum Choice {
    Now(u32),
    /// On its way from the device.
    Later(Pending),
}

impl Choice {
    pub(super) fn wait(self) -> Result<u32> {
        match self {
            Self::Now(token) => Ok(token),
            Self::Later(pending) => {
                let mut token = [0u32];
                pending.wait_into(bytemuck::cast_slice_mut(&mut token))?;
                Ok(token[0])
            }
        }
    }
}

pub(super) struct Sequence {
    pub(super) slot: usize,
    pub(super) options: GenerateOptions,
    /// The prompt, then the answer. The cache holds all but perhaps the last.
    pub(super) tokens: Vec<u32>,
    /// Tokens of the answer.
    pub(super) generated: usize,
    pub(super) sampler: Sampler,
    /// Set for answers whose tokens the host must choose.
    pub(super) hook: Option<Box<dyn LogitsHook>>,
    /// The hook needs no more tokens.
    pub(super) complete: bool,
    end_ids: Vec<u32>,
    context: usize,
}

impl Sequence {
    pub(super) fn new(model: &Model, slot: usize) -> Self {
        Self {
            slot,
            options: GenerateOptions::default(),
            tokens: Vec::new(),
            generated: 0,
            sampler: Sampler::new(model.config().vocab_size),
            hook: None,
            complete: false,
            end_ids: Vec::new(),
            context: model.context_length(),
        }
    }

    /// Gets ready for a prompt, without a hook; returns how many of its tokens are in the cache already.
    ///
    /// # Errors
    /// Options out of range; no tokens, an id beyond the vocabulary, a prompt longer than the context; not
    /// enough memory.
    pub(super) fn prepare(
        &mut self,
        runner: &mut Runner,
        model: &Model,
        prompt: &[u32],
        options: GenerateOptions,
    ) -> Result<usize> {
        options.check()?;
        model.check(prompt)?;
        let context = self.context;
        if prompt.len() > context {
            let n = prompt.len();
            return Err(Error::input(format!("the prompt has {n} tokens, the model's context {context}")));
        }
        let known = self.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        // At least one token must go through the model to say what comes next.
        runner.truncate(self.slot, known.min(prompt.len() - 1));
        let cached = runner.cache().slot_len(self.slot);
        self.tokens.truncate(cached);
        self.end_ids.clone_from(&options.stop_ids);
        if !options.ignore_eos {
            self.end_ids.extend(model.eos_token_ids());
        }
        // A sequence that shares its pages takes new ones as needed.
        let ahead = if runner.cache().slots() > 1 { 0 } else { options.max_tokens.unwrap_or(0).min(ROOM) };
        let room = prompt.len() + ahead;
        // Where there is not as much room as the answer may want, it may do with less.
        runner.reserve(self.slot, room.min(context)).or_else(|e| match e.is_memory() {
            true => runner.reserve(self.slot, prompt.len()),
            false => Err(e),
        })?;
        self.sampler.begin(&options, prompt);
        (self.generated, self.complete) = (0, false);
        (self.options, self.hook) = (options, None);
        Ok(cached)
    }

    /// Puts the rest of the prompt through the model; returns the first token of the answer. If the host chooses
    /// it, its logits are left in `logits`.
    ///
    /// # Errors
    /// The device failed; cancelled. What went through stays useful.
    pub(super) fn read(
        &mut self,
        runner: &mut Runner,
        prompt: &[u32],
        logits: &mut [f32],
        report: &mut Report<'_>,
    ) -> Result<Choice> {
        let (slot, rest) = (self.slot, &prompt[self.tokens.len()..]);
        let want = self.want();
        let later = if runner.chooses() && !self.is_hooked() {
            runner.prompt_and_choose(slot, rest, &self.sampler, report).map(Some)
        } else {
            runner.prompt(slot, rest, want, report).map(|()| None)
        };
        self.tokens = prompt[..runner.cache().slot_len(slot)].to_vec();
        let most = self.context - self.tokens.len();
        self.tokens.reserve(self.options.max_tokens.unwrap_or(most).min(most) + 1);
        match later? {
            Some(pending) => Ok(Choice::Later(pending)),
            None => self.choose(runner, logits),
        }
    }

    /// Puts the last token through the model and lets the host choose what follows.
    ///
    /// # Errors
    /// The device failed.
    pub(super) fn step(&mut self, runner: &mut Runner, logits: &mut [f32]) -> Result<Choice> {
        let last = self.tokens.last().ok_or_else(|| Error::input("there was no prompt"))?;
        runner.step(self.slot, std::slice::from_ref(last), self.want())?;
        self.choose(runner, logits)
    }

    /// The token that follows the latest step.
    fn choose(&mut self, runner: &Runner, logits: &mut [f32]) -> Result<Choice> {
        if self.want() == Want::Token {
            let mut token = [0u32];
            runner.read(&mut token)?;
            return Ok(Choice::Now(token[0]));
        }
        runner.read(logits)?;
        self.choose_from(logits).map(Choice::Now)
    }

    /// The next token, from logits on the host.
    ///
    /// # Errors
    /// The hook's.
    pub(super) fn choose_from(&mut self, logits: &mut [f32]) -> Result<u32> {
        if let Some(hook) = &mut self.hook {
            let (prompt, answer) = self.tokens.split_at(self.tokens.len() - self.generated);
            hook.adjust(prompt, answer, logits)?;
        }
        Ok(self.sampler.choose(logits))
    }

    /// What a step must bring back.
    fn want(&self) -> Want {
        if self.is_hooked() { Want::Last } else { self.options.want() }
    }

    /// Whether the host must choose.
    pub(super) fn is_hooked(&self) -> bool {
        self.hook.is_some()
    }

    /// Whether a step may be started for the token after `coming` ones that are not in the answer yet.
    pub(super) fn goes_on(&self, runner: &Runner, coming: usize) -> bool {
        let most = self.options.max_tokens.unwrap_or(usize::MAX);
        self.generated + coming < most && runner.cache().slot_len(self.slot) < self.context
    }

    /// Whether the answer may have another token.
    pub(super) fn wants_more(&self) -> bool {
        self.options.max_tokens.is_none_or(|most| self.generated < most)
    }

    /// Adds the next token to the answer, unless that ends with it.
    ///
    /// # Errors
    /// The hook's; no logit was a number, and so there is no token.
    pub(super) fn take(&mut self, token: u32) -> Result<Option<FinishReason>> {
        if token == NO_INDEX {
            return Err(Error::format(
                "the model's logits are not numbers: its weights are damaged, or its sums leave what floats hold",
            ));
        }
        if self.end_ids.contains(&token) {
            return Ok(Some(FinishReason::Stop));
        }
        if let Some(hook) = &mut self.hook {
            self.complete = hook.took(token)?;
        }
        self.tokens.push(token);
        self.sampler.chose(token);
        self.generated += 1;
        Ok(None)
    }

    /// Forgets what ran ahead of the answer.
    pub(super) fn rewind(&self, runner: &mut Runner) {
        runner.truncate(self.slot, self.tokens.len());
    }

    /// Puts the next of its tokens through the model again, all but the last, where the cache has lost them; whether they
    /// are all there now.
    ///
    /// # Errors
    /// Not enough memory; the device failed.
    pub(super) fn restore(&self, runner: &mut Runner) -> Result<bool> {
        let end = self.tokens.len().saturating_sub(1);
        let have = runner.cache().slot_len(self.slot).min(end);
        let next = end.min(have + runner.chunk);
        if have < next {
            runner.reserve(self.slot, self.tokens.len())?;
            runner.step(self.slot, &self.tokens[have..next], Want::Last)?;
        }
        Ok(next == end)
    }

    /// As a device step begins: the last token goes through the model next, again if a step that was
    /// given up has put it through already.
    pub(super) fn row(&self, runner: &mut Runner) -> Result<Row<'_>> {
        let &token = self.tokens.last().ok_or_else(|| Error::input("there was no prompt"))?;
        let position = self.tokens.len() - 1;
        runner.truncate(self.slot, position);
        let place = runner.cache().place(self.slot, position);
        Ok(Row { slot: self.slot, token, place, sampler: &self.sampler })
    }
}
