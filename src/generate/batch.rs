//! [`Batch`]: several sequences, advanced together.
//!
//! A step reads the weights once for all sequences. Where the device chooses tokens, one step runs ahead of
//! what the host knows, as in [`Generator`](super::Generator); when a sequence ends or another joins, that
//! step is dropped and the device is told anew which sequences take part.

use super::decode::MOST;
use super::generator::FinishReason;
use super::hook::LogitsHook;
use super::options::GenerateOptions;
use super::runner::Runner;
use super::sequence::{Choice, Sequence};
use crate::cpu::PAGE;
use crate::error::{Context, Error, Result};
use crate::gpu::Pending;
use crate::kv_quantization::{KvCache, KvKind};
use crate::models::Model;
use crate::nn::{Progress, Report};
use std::ops::ControlFlow;

/// What a step brought a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchItem {
    /// The next token of the answer.
    Token(u32),
    /// The answer has ended.
    End(FinishReason),
}

pub(super) struct Lane {
    pub(super) sequence: Sequence,
    /// A token that is chosen but not yet handed out.
    pending: Option<u32>,
    pub(super) active: bool,
    /// Others have its pages for now: it goes on when there are pages for it again.
    pub(super) parked: bool,
    /// Which prompt of the batch its own was: lower is older.
    pub(super) turn: u64,
    /// What the hook said when it ended the answer.
    pub(super) failure: Option<Error>,
}

impl Lane {
    /// Whether it takes part in steps.
    pub(super) fn runs(&self) -> bool {
        self.active && !self.parked
    }
}

/// Generates several answers at once, each in a slot with its own prompt, options and seed.
///
/// ```no_run
/// use unimlx::{Batch, BatchItem, GenerateOptions, Model};
/// # fn run(model: &Model, prompts: &[Vec<u32>]) -> unimlx::Result<()> {
/// let mut batch = Batch::new(model, prompts.len(), None)?;
/// for (slot, prompt) in prompts.iter().enumerate() {
///     batch.prompt(slot, prompt, GenerateOptions::default())?;
/// }
/// while batch.is_active() {
///     for &(slot, item) in batch.step()? {
///         if let BatchItem::Token(id) = item {
///             println!("{slot}: {id}");
///         }
///     }
/// }
/// # Ok(())
/// # }
/// ```
///
/// An answer is the same as [`Generator`](crate::Generator)'s up to the rounding of kernels for several rows.
/// Stop strings are the caller's business: [`Batch::stop`].
pub struct Batch {
    model: Model,
    pub(super) runner: Runner,
    pub(super) lanes: Vec<Lane>,
    /// Whether prompts begin with what the cache has of them.
    pub(super) prefixes: bool,
    /// Prompts so far.
    turns: u64,
    /// Answers that had to wait for pages so far.
    pub(super) preempted: usize,
    /// The lane of each row of the steps that are launched.
    rows: Vec<usize>,
    /// Whether the device knows these rows.
    loaded: bool,
    ahead: Option<Pending>,
    logits: Vec<f32>, // [slots, vocab]
    items: Vec<(usize, BatchItem)>,
}

impl Batch {
    /// An empty batch of 1 to 8 slots; `kind` as for [`Generator::new`](crate::Generator::new).
    ///
    /// # Errors
    /// Another number of slots, a kind that cannot be.
    pub fn new(model: &Model, slots: usize, kind: Option<KvKind>) -> Result<Self> {
        Self::with_kinds(model, slots, kind.as_slice())
    }

    /// [`Batch::new`] with a cache as [`Generator::with_kinds`](crate::Generator::with_kinds) has it.
    ///
    /// # Errors
    /// Another number of slots, kinds that cannot be, more kinds than layers.
    pub fn with_kinds(model: &Model, slots: usize, kinds: &[KvKind]) -> Result<Self> {
        if !(1..=MOST).contains(&slots) {
            return Err(Error::input(format!("a batch of {slots} sequences, expected 1 to {MOST}")));
        }
        let runner = Runner::with_kinds(model, slots, kinds);
        runner.cache().check()?;
        let lane = |slot| Lane {
            sequence: Sequence::new(model, slot),
            pending: None,
            active: false,
            parked: false,
            turn: 0,
            failure: None,
        };
        Ok(Self {
            model: model.clone(),
            runner,
            lanes: (0..slots).map(lane).collect(),
            prefixes: true,
            turns: 0,
            preempted: 0,
            rows: Vec::with_capacity(slots),
            loaded: false,
            ahead: None,
            logits: vec![0.0; slots * model.config().vocab_size],
            items: Vec::with_capacity(slots),
        })
    }

    /// Reads a prompt into a slot and begins an answer; what the slot did before is given up. Of the prompt only what the
    /// cache does not have goes through the model: [`Batch::reuse`].
    ///
    /// # Errors
    /// No such slot; no pages for the prompt, of kind memory; as [`Generator::prompt`](crate::Generator::prompt).
    pub fn prompt(&mut self, slot: usize, tokens: &[u32], options: GenerateOptions) -> Result<()> {
        self.prompt_with(slot, tokens, options, &mut None, &mut |_: Progress<'_>| ControlFlow::Continue(()))
    }

    /// [`Batch::prompt`] with a say in the choice of each token, and a report after each chunk of tokens. `Break`
    /// cancels; what was read stays, so the same prompt goes on from there: other answers may have a step
    /// between two chunks. The hook is taken when the prompt has been read; while an answer has one, the host
    /// chooses the tokens of all.
    ///
    /// # Errors
    /// As [`Batch::prompt`]; cancelled; the hook's. Later errors of the hook end this answer:
    /// [`Batch::failure`].
    pub fn prompt_with(
        &mut self,
        slot: usize,
        tokens: &[u32],
        options: GenerateOptions,
        hook: &mut Option<Box<dyn LogitsHook>>,
        report: &mut Report<'_>,
    ) -> Result<()> {
        self.reuse(slot, tokens)?;
        self.turns += 1;
        (self.lanes[slot].failure, self.lanes[slot].turn) = (None, self.turns);
        loop {
            let Self { runner, model, lanes, .. } = self;
            match lanes[slot].sequence.prepare(runner, model, tokens, options.clone()) {
                Err(e) if e.is_memory() && self.drop_idle(slot) => {}
                prepared => break prepared.map(drop)?,
            }
        }
        let Self { runner, model, lanes, logits, .. } = self;
        let lane = &mut lanes[slot];
        let vocab = model.config().vocab_size;
        lane.sequence.hook = hook.take();
        let first = lane.sequence.read(runner, tokens, &mut logits[..vocab], report).and_then(Choice::wait);
        if self.prefixes {
            runner.remember(slot, &lane.sequence.tokens);
        }
        let first = match first {
            Ok(first) => first,
            Err(e) => {
                *hook = lane.sequence.hook.take();
                return Err(e);
            }
        };
        (lane.pending, lane.active) = (Some(first), true);
        Ok(())
    }

    /// Forgets what a slot remembers: the next prompt is read from its beginning.
    ///
    /// # Errors
    /// No such slot.
    pub fn forget(&mut self, slot: usize) -> Result<()> {
        self.stop(slot)?;
        self.give_up(slot);
        Ok(())
    }

    /// Whether prompts begin with what the cache has of them, as they do by default.
    pub fn keep_prefixes(&mut self, keep: bool) {
        self.prefixes = keep;
    }

    /// How often answers had to wait, and be read again, because others needed their pages.
    pub fn preempted(&self) -> usize {
        self.preempted
    }

    /// Limits all slots together to `tokens` tokens, in pages of 128 that are made on first use; an answer that
    /// needs more ends with an error of kind memory. Without a limit pages are added as they are needed.
    pub fn limit_cache(&mut self, tokens: usize) {
        let most = self.lanes.len() * self.model.context_length().next_multiple_of(PAGE);
        self.runner.limit(tokens.min(most));
    }

    /// Ends a slot's answer here; it may have ended already.
    ///
    /// # Errors
    /// No such slot.
    pub fn stop(&mut self, slot: usize) -> Result<()> {
        let slots = self.lanes.len();
        let lane = self.lanes.get_mut(slot);
        let lane = lane.ok_or_else(|| Error::input(format!("slot {slot} of a batch of {slots}")))?;
        lane.parked = false;
        if std::mem::take(&mut lane.active) {
            lane.pending = None;
            self.rewind();
        }
        Ok(())
    }

    /// Advances every answer by one token, or ends it: an item for each that was active. Right after prompts it
    /// hands out only their first tokens. When pages run out, the youngest answers wait until others have ended,
    /// then go on as if nothing had happened; one that needs more than all pages ends, with [`Batch::failure`].
    /// An error ends all.
    ///
    /// # Errors
    /// The device failed.
    pub fn step(&mut self) -> Result<&[(usize, BatchItem)]> {
        self.items.clear();
        let outcome = self.advance().context("generating");
        if outcome.is_err() {
            self.rewind();
            self.lanes.iter_mut().for_each(|lane| (lane.active, lane.parked) = (false, false));
        }
        outcome.map(|()| &self.items[..])
    }

    fn advance(&mut self) -> Result<()> {
        if self.lanes.iter().any(|lane| lane.active && lane.pending.is_some()) {
            for slot in 0..self.lanes.len() {
                if let Some(token) = self.lanes[slot].pending.take() {
                    self.hand_out(slot, token);
                }
            }
            return Ok(());
        }
        // Answers that are as long as they may be.
        for slot in 0..self.lanes.len() {
            let lane = &self.lanes[slot];
            let position = lane.sequence.tokens.len();
            if lane.runs() && lane.sequence.complete {
                self.end(slot, FinishReason::Stop);
            } else if lane.runs() && (!lane.sequence.wants_more() || position > self.model.context_length()) {
                self.end(slot, FinishReason::Length);
            }
        }
        self.make_room()?;
        if !self.lanes.iter().any(Lane::runs) {
            return Ok(());
        }
        let mut tokens = [0u32; MOST];
        let hooked = self.lanes.iter().any(|lane| lane.runs() && lane.sequence.is_hooked());
        if !hooked && self.runner.chooses() {
            self.device_step(&mut tokens)?
        } else {
            self.host_step(&mut tokens)?
        }
        let mut rows = [0usize; MOST];
        let count = self.rows.len();
        rows[..count].copy_from_slice(&self.rows);
        for (&slot, &token) in rows[..count].iter().zip(&tokens) {
            self.hand_out(slot, token);
            if self.prefixes {
                self.runner.remember(slot, &self.lanes[slot].sequence.tokens);
            }
        }
        Ok(())
    }

    fn active_rows(&mut self) {
        self.rows.clear();
        let active = self.lanes.iter().enumerate().filter(|(_, lane)| lane.runs());
        self.rows.extend(active.map(|(slot, _)| slot));
    }

    /// The next token of each row, chosen by the device.
    fn device_step(&mut self, tokens: &mut [u32; MOST]) -> Result<()> {
        if !self.loaded {
            self.active_rows();
            let rows = self.rows.iter().map(|&slot| self.lanes[slot].sequence.row(&mut self.runner));
            let rows = rows.collect::<Result<Vec<_>>>()?;
            self.runner.load(&rows)?;
            self.loaded = true;
        }
        let next = match self.ahead.take() {
            Some(next) => next,
            None => self.runner.launch()?,
        };
        if self.rows.iter().all(|&slot| self.lanes[slot].sequence.goes_on(&self.runner, 1)) {
            self.ahead = match self.runner.launch() {
                // There may be room when it is the step's turn.
                Err(e) if e.is_memory() => None,
                next => Some(next?),
            };
        }
        next.wait_into(bytemuck::cast_slice_mut(&mut tokens[..self.rows.len()]))
    }

    /// The next token of each row, chosen by the host.
    fn host_step(&mut self, tokens: &mut [u32; MOST]) -> Result<()> {
        self.rewind();
        self.active_rows();
        let mut last = [0u32; MOST];
        for (last, &slot) in last.iter_mut().zip(&self.rows) {
            *last = self.lanes[slot].sequence.row(&mut self.runner)?.token;
        }
        let (count, vocab) = (self.rows.len(), self.model.config().vocab_size);
        self.runner.step_each(&self.rows, &last[..count])?;
        self.runner.read(&mut self.logits[..count * vocab])?;
        let rows = self.rows.iter().zip(self.logits.chunks_exact_mut(vocab));
        for (token, (&slot, logits)) in tokens.iter_mut().zip(rows) {
            let lane = &mut self.lanes[slot];
            match lane.sequence.choose_from(logits) {
                Ok(chosen) => *token = chosen,
                Err(e) => lane.failure = Some(e),
            }
        }
        Ok(())
    }

    fn hand_out(&mut self, slot: usize, token: u32) {
        let lane = &mut self.lanes[slot];
        if !lane.sequence.wants_more() {
            self.end(slot, FinishReason::Length);
            return;
        }
        let taken = match lane.failure.take() {
            Some(e) => Err(e),
            None => lane.sequence.take(token),
        };
        match taken {
            Ok(None) => self.items.push((slot, BatchItem::Token(token))),
            Ok(Some(reason)) => self.end(slot, reason),
            Err(e) => {
                lane.failure = Some(e);
                self.end(slot, FinishReason::Failed);
            }
        }
    }

    pub(super) fn end(&mut self, slot: usize, reason: FinishReason) {
        (self.lanes[slot].active, self.lanes[slot].parked) = (false, false);
        self.rewind();
        self.items.push((slot, BatchItem::End(reason)));
    }

    /// Gives up the step that runs ahead.
    pub(super) fn rewind(&mut self) {
        (self.ahead, self.loaded) = (None, false);
        self.lanes.iter().for_each(|lane| lane.sequence.rewind(&mut self.runner));
    }

    /// Whether any answer is under way.
    pub fn is_active(&self) -> bool {
        self.lanes.iter().any(|lane| lane.active)
    }

    /// The first slot without an answer under way.
    pub fn idle_slot(&self) -> Option<usize> {
        self.lanes.iter().position(|lane| !lane.active)
    }

    /// A slot's prompt and answer so far; empty if there is no such slot.
    pub fn tokens(&self, slot: usize) -> &[u32] {
        self.lanes.get(slot).map_or(&[], |lane| &lane.sequence.tokens)
    }

    /// Why a slot's answer ended with [`FinishReason::Failed`].
    pub fn failure(&self, slot: usize) -> Option<&Error> {
        self.lanes.get(slot)?.failure.as_ref()
    }

    /// How many pages of the cache these slots have, shared ones counted once; none for no such slot.
    pub fn pages_of(&self, slots: impl Iterator<Item = usize>) -> usize {
        let all = self.lanes.len();
        self.runner.cache().pages_of(slots.filter(|&slot| slot < all))
    }

    /// What the model remembers.
    pub fn cache(&self) -> &KvCache {
        self.runner.cache()
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let active = self.lanes.iter().filter(|lane| lane.active).count();
        write!(f, "Batch({:?}, {active} of {} slots)", self.model, self.lanes.len())
    }
}
