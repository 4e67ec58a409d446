//! [`Generator`]: an iterator of tokens, with the memory of a conversation.
//!
//! Where the device chooses tokens, the step after the one that the host waits for is already submitted: it
//! begins as soon as its token is chosen, and meanwhile the host learns of that token. A step too many, past
//! an end token or a stop string, is forgotten.

use super::hook::LogitsHook;
use super::options::GenerateOptions;
use super::runner::Runner;
use super::sequence::{Choice, Sequence};
use super::text::TextStream;
use crate::error::Result;
use crate::gpu::counters;
use crate::io::Tokenizer;
use crate::kv_quantization::{KvCache, KvKind};
use crate::models::Model;
use crate::nn::Report;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FinishReason {
    /// An end token, or a stop string.
    Stop,
    /// `max_tokens`, or the end of the model's context.
    Length,
    /// In a batch: the answer's hook failed.
    Failed,
}

/// What the last prompt and its answer cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Stats {
    /// Tokens of the prompt that went through the model.
    pub prompt_tokens: usize,
    /// Tokens of the prompt that were in the cache already.
    pub cached_tokens: usize,
    /// From the prompt to the first token.
    pub prompt_time: Duration,
    /// Tokens of the answer.
    pub generated_tokens: usize,
    /// Time in the model for all tokens but the first.
    pub generation_time: Duration,
    /// The most bytes of arrays, weights included unless mapped, that were ever in use.
    pub peak_bytes: u64,
}

impl Stats {
    /// Prompt tokens per second; 0 if nothing was read.
    pub fn prompt_rate(&self) -> f64 {
        rate(self.prompt_tokens, self.prompt_time)
    }

    /// Generated tokens per second; the first counts as the prompt's.
    pub fn generation_rate(&self) -> f64 {
        rate(self.generated_tokens.saturating_sub(1), self.generation_time)
    }
}

fn rate(n: usize, time: Duration) -> f64 {
    if n == 0 || time.is_zero() { 0.0 } else { n as f64 / time.as_secs_f64() }
}

/// Generates tokens. Iterate after [`Generator::prompt`]; end tokens are not part of the answer.
///
/// Keys and values stay when an answer ends: the next prompt reads only what differs, so a conversation
/// that is passed in whole each time costs no more than its new part.
pub struct Generator {
    model: Model,
    pub(super) runner: Runner,
    sequence: Sequence,
    /// A token that is chosen but not yet handed out.
    pending: Option<u32>,
    /// The step that runs ahead.
    ahead: Option<Choice>,
    logits: Vec<f32>, // [vocab]
    /// There is more to come.
    active: bool,
    finished: Option<FinishReason>,
    stats: Stats,
}

impl Generator {
    /// A generator with an empty cache; `kind` is how it keeps keys and values, by default what suits the
    /// model's device.
    pub fn new(model: &Model, kind: Option<KvKind>) -> Self {
        Self::with_kinds(model, kind.as_slice())
    }

    /// A generator whose cache keeps the first layers in `kinds`, one each, and all others in the last of these;
    /// without any, in what suits the model's device. Kinds that cannot be, or more than there are layers, are an error of
    /// the first prompt, and of [`KvCache::check`].
    ///
    /// ```no_run
    /// # use unimlx::{Generator, KvKind, Model};
    /// # fn example(model: &Model) {
    /// // The first two layers are coded more finely than the rest.
    /// let generator = Generator::with_kinds(model, &[KvKind::Int8, KvKind::Int8, KvKind::K4V3]);
    /// # }
    /// ```
    pub fn with_kinds(model: &Model, kinds: &[KvKind]) -> Self {
        Self {
            model: model.clone(),
            runner: Runner::with_kinds(model, 1, kinds),
            sequence: Sequence::new(model, 0),
            pending: None,
            ahead: None,
            logits: vec![0.0; model.config().vocab_size],
            active: false,
            finished: None,
            stats: Stats::default(),
        }
    }

    /// Reads a prompt and begins an answer.
    ///
    /// # Errors
    /// An empty prompt, one longer than the model's context, an id beyond the vocabulary, options out of
    /// range, kinds of the cache that cannot be; the device failed.
    pub fn prompt(&mut self, tokens: &[u32], options: GenerateOptions) -> Result<()> {
        self.prompt_with(tokens, options, &mut |_| ControlFlow::Continue(()))
    }

    /// [`Generator::prompt`] with a report after each chunk of tokens; `Break` cancels.
    ///
    /// # Errors
    /// As [`Generator::prompt`]; cancelled.
    pub fn prompt_with(
        &mut self,
        tokens: &[u32],
        options: GenerateOptions,
        progress: &mut Report<'_>,
    ) -> Result<()> {
        self.begin(tokens, options, None, progress)
    }

    /// [`Generator::prompt`] with a hook that takes part in the choice of each token.
    ///
    /// # Errors
    /// As [`Generator::prompt`]; the hook's.
    pub fn prompt_hooked(
        &mut self,
        tokens: &[u32],
        options: GenerateOptions,
        hook: Box<dyn LogitsHook>,
    ) -> Result<()> {
        self.begin(tokens, options, Some(hook), &mut |_| ControlFlow::Continue(()))
    }

    fn begin(
        &mut self,
        tokens: &[u32],
        options: GenerateOptions,
        hook: Option<Box<dyn LogitsHook>>,
        progress: &mut Report<'_>,
    ) -> Result<()> {
        options.check()?;
        self.model.check(tokens)?;
        self.rewind();
        (self.pending, self.active, self.finished) = (None, false, None); // until all went well
        let Self { sequence, runner, model, .. } = self;
        let cached = sequence.prepare(runner, model, tokens, options)?;
        sequence.hook = hook;
        let begin = Instant::now();
        self.stats =
            Stats { cached_tokens: cached, prompt_tokens: tokens.len() - cached, ..Stats::default() };
        let first = self.sequence.read(&mut self.runner, tokens, &mut self.logits, progress)?;
        // Planning the next step would delay this one's token.
        if matches!(first, Choice::Later(_)) && self.runner.can_launch() {
            self.run_ahead()?;
        }
        self.pending = Some(first.wait()?);
        self.active = true;
        self.stats.prompt_time = begin.elapsed();
        Ok(())
    }

    /// Submits the step after the one that is waited for, if it is sure to be wanted but for what that one
    /// chooses.
    fn run_ahead(&mut self) -> Result<()> {
        if self.sequence.goes_on(&self.runner, 1) {
            self.ahead = Some(Choice::Later(self.runner.launch()?));
        }
        Ok(())
    }

    /// Forgets what ran ahead.
    fn rewind(&mut self) {
        self.ahead = None;
        self.sequence.rewind(&mut self.runner);
    }

    /// The token that follows the last one.
    fn step(&mut self) -> Result<u32> {
        let Self { sequence, runner, logits, .. } = self;
        if sequence.is_hooked() || !runner.chooses() {
            return sequence.step(runner, logits)?.wait();
        }
        let next = match self.ahead.take() {
            Some(next) => next,
            None => Choice::Later(runner.launch()?),
        };
        self.run_ahead()?;
        next.wait()
    }

    /// The next token of the answer, or why there is none.
    fn next_token(&mut self) -> Result<Result<u32, FinishReason>> {
        if self.sequence.complete {
            return Ok(Err(FinishReason::Stop));
        }
        if self.options().max_tokens.is_some_and(|most| self.stats.generated_tokens >= most) {
            return Ok(Err(FinishReason::Length));
        }
        let token = match self.pending.take() {
            Some(token) => token,
            None if self.ahead.is_none() && !self.sequence.goes_on(&self.runner, 0) => {
                return Ok(Err(FinishReason::Length));
            }
            None => {
                let begin = Instant::now();
                let token = self.step()?;
                self.stats.generation_time += begin.elapsed();
                token
            }
        };
        if let Some(reason) = self.sequence.take(token)? {
            return Ok(Err(reason));
        }
        self.stats.generated_tokens += 1;
        Ok(Ok(token))
    }

    /// Ends the answer here.
    pub(super) fn finish(&mut self, reason: FinishReason) {
        self.rewind();
        (self.active, self.finished) = (false, Some(reason));
    }

    /// Writes what the model remembers of the prompt and the answer so far to a safetensors file, for
    /// [`Generator::load_prompt`].
    ///
    /// # Errors
    /// A file that cannot be written; the device failed.
    pub fn save_prompt(&self, path: impl AsRef<Path>) -> Result<()> {
        self.runner.cache().save(path.as_ref(), self.model.fingerprint(), &self.sequence.tokens)
    }

    /// Replaces what the model remembers by what a file says: a prompt that begins with the same tokens costs no more
    /// than its rest. Returns the number of tokens in the file, which may come from another device.
    ///
    /// # Errors
    /// A file that is malformed, or of another model, another kind of cache or another version; not enough memory. What
    /// was remembered is forgotten then, too.
    pub fn load_prompt(&mut self, path: impl AsRef<Path>) -> Result<usize> {
        self.rewind();
        (self.pending, self.active, self.finished) = (None, false, None);
        self.sequence.tokens.clear();
        self.sequence.tokens = self.runner.restore(path.as_ref())?;
        Ok(self.sequence.tokens.len())
    }

    /// Forgets all but the first `len` tokens of prompt and answer, and ends the answer.
    pub fn trim(&mut self, len: usize) {
        self.finish(FinishReason::Stop);
        self.pending = None;
        self.sequence.tokens.truncate(len);
        self.runner.truncate(0, len);
    }

    /// Decodes the answer as it is generated.
    pub fn text<'a>(&'a mut self, tokenizer: &Tokenizer) -> TextStream<'a> {
        TextStream::new(self, tokenizer)
    }

    /// Why the answer ended; `None` while it has not, or when it failed.
    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.finished
    }

    /// The options of the last prompt.
    pub fn options(&self) -> &GenerateOptions {
        &self.sequence.options
    }

    /// The prompt and the answer so far.
    pub fn tokens(&self) -> &[u32] {
        &self.sequence.tokens
    }

    /// What the model remembers.
    pub fn cache(&self) -> &KvCache {
        self.runner.cache()
    }

    /// What the last prompt and its answer cost so far.
    pub fn stats(&self) -> Stats {
        Stats { peak_bytes: counters().peak(), ..self.stats }
    }
}

impl Iterator for Generator {
    type Item = Result<u32>;

    /// The next token. An error ends the answer.
    fn next(&mut self) -> Option<Result<u32>> {
        if !self.active {
            return None;
        }
        match self.next_token() {
            Ok(Ok(token)) => Some(Ok(token)),
            Ok(Err(reason)) => {
                self.finish(reason);
                None
            }
            Err(e) => {
                self.rewind();
                self.active = false;
                Some(Err(e.context("generating")))
            }
        }
    }
}

impl std::fmt::Debug for Generator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Generator({:?}, {} tokens)", self.model, self.sequence.tokens.len())
    }
}
