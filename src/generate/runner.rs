//! Tokens through the model, one program per shape of step.
//!
//! A step of `t` tokens is a graph over two small leaves (ids and places) and the cache. It is planned
//! once and replayed with new leaves. Growing the cache replaces its buffers, so programs are bound anew
//! then; plans themselves are kept by their structure elsewhere.
//!
//! On the GPU a step ends with the choice of the next tokens ([`crate::ops::Next`]) and leaves the leaves of the next step
//! behind ([`State`]): steps are launched without waiting for what the last one chose.

use super::decode::{MOST, Row, State};
use super::pace::{CHUNK, LARGE_CHUNK, chunk, chunk_on, submissions};
use crate::array::{Device, MLXArray};
use crate::dtype::Dtype;
use crate::error::{Context, Error, Result};
use crate::gpu::{Gpu, Pending};
use crate::kv_quantization::{KvCache, KvKind};
use crate::models::Model;
use crate::nn::{Progress, Report, proceed};
use crate::op::Spec;
use crate::ops;
use crate::plan::{Program, has_kernel};
use std::collections::HashMap;
use std::path::Path;

/// What a step is run for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Want {
    /// The likeliest next token: 4 bytes come back from the device.
    Token,
    /// Logits of the last position.
    Last,
    /// Logits of every position.
    All,
    /// What logits would be computed from, of every position.
    Hidden,
    /// The next token of one sequence, chosen on the device.
    Next,
    /// The next token of each token's sequence, chosen on the device.
    Each,
}

struct Bound {
    program: Program,
    ids: MLXArray,    // [t] u32
    places: MLXArray, // [t, 2] u32
}

/// A model with a cache and the programs bound to it.
pub(super) struct Runner {
    model: Model,
    /// Tokens that go through it at once, at most, and with the room that the cache has now.
    most: usize,
    chunk: usize,
    cache: KvCache,
    programs: HashMap<(usize, Want), Bound>,
    generation: u64,
    latest: (usize, Want),
    /// Tokens that a slot may have.
    limit: usize,
    /// By the number of rows, made on first use.
    states: [Option<State>; MOST + 1],
    /// Tokens seen, `[slots, vocab / 32]` u32: of device states.
    seen: Option<MLXArray>,
    /// Slots of the rows that were loaded last.
    rows: Vec<usize>,
    /// The cache's generation when they were placed.
    placed: u64,
    /// Whether the device chooses; found out on first use.
    pub(super) chooses: Option<bool>,
}

impl Runner {
    pub(super) fn new(model: &Model, slots: usize, kind: KvKind) -> Self {
        let cache = model.cache(slots, kind);
        let (generation, latest) = (cache.generation(), (0, Want::Last));
        // Who shares a model waits for others' chunks.
        let most = if slots > 1 { CHUNK } else { chunk_on(model.device()) };
        Self {
            model: model.clone(),
            most,
            chunk: most,
            cache,
            programs: HashMap::new(),
            generation,
            latest,
            limit: usize::MAX,
            states: Default::default(),
            seen: None,
            rows: Vec::with_capacity(MOST),
            placed: generation,
            chooses: None,
        }
    }

    pub(super) fn cache(&self) -> &KvCache {
        &self.cache
    }

    /// Forgets all but the first `len` tokens of a slot.
    pub(super) fn truncate(&mut self, slot: usize, len: usize) {
        self.cache.truncate(slot, len);
    }

    /// Lets a slot begin as another does.
    ///
    /// # Errors
    /// The device failed.
    pub(super) fn copy_prefix(&mut self, from: usize, to: usize, tokens: usize) -> Result<()> {
        self.cache.copy_prefix(from, to, tokens)
    }

    /// Allows so many tokens in each slot.
    pub(super) fn limit(&mut self, tokens: usize) {
        self.limit = tokens;
    }

    /// Whether the device chooses tokens: a GPU on which the kernel for it does what it should.
    pub(super) fn chooses(&mut self) -> bool {
        let vocab = self.model.config().vocab_size;
        let device = self.model.device();
        *self.chooses.get_or_insert_with(|| {
            let word = |dims: &[usize]| Spec::new(dims, Dtype::U32);
            let float = |dims: &[usize]| Spec::new(dims, Dtype::F32);
            let state = [word(&[1]), word(&[1, 2]), word(&[1]), word(&[1, vocab.div_ceil(32)])];
            let inputs = [vec![float(&[1, vocab]), float(&[1, 5]), word(&[1, 4])], state.to_vec()].concat();
            device == Device::GPU && has_kernel(ops::Next, &inputs, &word(&[1]))
        })
    }

    /// Makes room for so many tokens in each slot, so that no step has to.
    ///
    /// # Errors
    /// More than the model's context; not enough memory.
    pub(super) fn reserve(&mut self, tokens: usize) -> Result<()> {
        let most = self.model.context_length();
        if tokens > most {
            return Err(Error::input(format!("{tokens} tokens are more than the model's context of {most}")));
        }
        if tokens > self.limit {
            let most = self.limit;
            return Err(Error::memory(format!("{tokens} tokens of one text, the cache may have {most}")));
        }
        let most = most.min(self.limit);
        self.cache.kind().check(self.model.config().head_dim)?;
        if self.cache.wants_bases() {
            self.cache.set_bases(&self.model.bases()?)?;
        }
        self.cache.reserve(tokens, most)?;
        if self.generation != self.cache.generation() {
            self.generation = self.cache.generation();
            self.programs.clear();
            if let (Device::GPU, Some(gpu)) = (self.model.device(), Gpu::opened()) {
                self.chunk = chunk(self.model.config(), gpu.caps(), self.most, self.cache.capacity());
            }
        }
        Ok(())
    }

    /// Fills the first slot from a file; the tokens that it then holds.
    ///
    /// # Errors
    /// As [`Generator::load_prompt`](super::Generator::load_prompt).
    pub(super) fn restore(&mut self, path: &Path) -> Result<Vec<u32>> {
        self.cache.kind().check(self.model.config().head_dim)?;
        self.cache.truncate(0, 0);
        let tokens = self.cache.load(path, self.model.fingerprint(), self.model.context_length())?;
        self.model.check(&tokens).with_context(|| path.display().to_string())?;
        Ok(tokens)
    }

    /// Puts tokens of one sequence through the model, after those in its slot.
    ///
    /// # Errors
    /// As [`Runner::reserve`]; the device failed. The cache then holds what it held.
    pub(super) fn step(&mut self, slot: usize, tokens: &[u32], want: Want) -> Result<()> {
        let (t, start) = (tokens.len(), self.cache.slot_len(slot));
        self.reserve(start + t)?;
        let mut places = [[0u32; 2]; LARGE_CHUNK];
        places.iter_mut().zip(start..).take(t).for_each(|(p, at)| *p = self.cache.place(slot, at));
        self.run(tokens, &places[..t], want)?;
        self.cache.advance(slot, t);
        Ok(())
    }

    /// Puts one token through the model for each of some sequences, for the logits of each.
    ///
    /// # Errors
    /// As [`Runner::step`].
    pub(super) fn step_each(&mut self, slots: &[usize], tokens: &[u32]) -> Result<()> {
        let n = slots.len().min(MOST);
        let longest = slots.iter().map(|&slot| self.cache.slot_len(slot)).max().unwrap_or(0);
        self.reserve(longest + 1)?;
        let mut places = [[0u32; 2]; MOST];
        let place = |slot: &usize| self.cache.place(*slot, self.cache.slot_len(*slot));
        places.iter_mut().zip(slots).for_each(|(p, slot)| *p = place(slot));
        self.run(&tokens[..n], &places[..n], Want::All)?;
        slots.iter().for_each(|&slot| self.cache.advance(slot, 1));
        Ok(())
    }

    fn run(&mut self, tokens: &[u32], places: &[[u32; 2]], want: Want) -> Result<()> {
        let bound = self.bound((tokens.len(), want))?;
        bound.ids.overwrite(bytemuck::cast_slice(tokens))?;
        bound.places.overwrite(bytemuck::cast_slice(places))?;
        bound.program.run()
    }

    /// The program of a step, bound now if it is new.
    fn bound(&mut self, key: (usize, Want)) -> Result<&mut Bound> {
        let (t, want) = key;
        // Single tokens and full chunks come again and again; other lengths are the ends of prompts.
        self.programs.retain(|k, _| k.0 == 1 || k.0 == self.chunk || k.1 == Want::Each || *k == key);
        let bound = match self.programs.remove(&key) {
            Some(bound) => bound,
            None => self.bind(t, want).with_context(|| format!("planning a step of {t} tokens"))?,
        };
        self.latest = key;
        Ok(self.programs.entry(key).insert_entry(bound).into_mut())
    }

    fn bind(&mut self, t: usize, want: Want) -> Result<Bound> {
        let device = self.model.device();
        let leaf = |dims: &[usize]| MLXArray::mutable(dims, Dtype::U32, device);
        let (ids, places) = match want {
            Want::Each => {
                let state = self.state(t)?;
                (state.ids.clone(), state.places.clone())
            }
            _ => (leaf(&[t])?, leaf(&[t, 2])?),
        };
        let last_only = matches!(want, Want::Token | Want::Last | Want::Next);
        let logits = match want {
            Want::Hidden => self.model.hidden(&ids, &places, &self.cache),
            _ => self.model.forward(&ids, &places, &self.cache, last_only),
        };
        let output = match want {
            Want::Token => MLXArray::apply(ops::Argmax, &[&logits]), // [1] u32
            // [1, vocab], [t, vocab] or [t, hidden]
            Want::Last | Want::All | Want::Hidden => logits,
            Want::Next | Want::Each => {
                let seen = self.seen()?;
                self.state(logits.dims()[0])?.next(&logits, &seen) // [1] or [t] u32
            }
        };
        let mut program = Program::new(&[output])?;
        if device == Device::GPU {
            let gpu = Gpu::shared()?;
            program.cut(submissions(self.model.config(), gpu.caps(), t, self.cache.capacity()));
        }
        Ok(Bound { program, ids, places })
    }

    fn state(&mut self, rows: usize) -> Result<&State> {
        let device = self.model.device();
        match self.states.get_mut(rows) {
            Some(Some(state)) => Ok(state),
            Some(none) => Ok(none.insert(State::new(rows, device)?)),
            None => Err(Error::input(format!("{rows} sequences in one step, {MOST} is the most"))),
        }
    }

    fn seen(&mut self) -> Result<MLXArray> {
        if let Some(seen) = &self.seen {
            return Ok(seen.clone());
        }
        let words = self.model.config().vocab_size.div_ceil(32);
        let seen = MLXArray::mutable(&[self.cache.slots(), words], Dtype::U32, self.model.device())?;
        Ok(self.seen.insert(seen).clone())
    }

    /// Gives the device the sequences of the steps that are launched from now on.
    ///
    /// # Errors
    /// The device failed.
    pub(super) fn load(&mut self, rows: &[Row<'_>]) -> Result<()> {
        self.state(rows.len())?.load(rows)?;
        self.rows.clear();
        self.rows.extend(rows.iter().map(|row| row.slot));
        self.placed = self.cache.generation();
        if rows.iter().any(|row| row.sampler.penalty != 1.0) {
            let seen = self.seen()?;
            let words = seen.dims()[1];
            let mut bits = vec![0u32; seen.size()];
            for row in rows {
                bits[row.slot * words..][..words].copy_from_slice(row.sampler.seen());
            }
            seen.overwrite(bytemuck::cast_slice(&bits))?;
        }
        Ok(())
    }

    /// Whether [`Runner::launch`] has its program.
    pub(super) fn can_launch(&self) -> bool {
        self.programs.contains_key(&(self.rows.len(), Want::Each))
    }

    /// Starts a step of the sequences that were loaded; their next tokens come later.
    ///
    /// # Errors
    /// As [`Runner::step`].
    pub(super) fn launch(&mut self) -> Result<Pending> {
        let longest = self.rows.iter().map(|&slot| self.cache.slot_len(slot)).max().unwrap_or(0);
        self.reserve(longest + 1)?;
        let n = self.rows.len();
        if self.placed != self.cache.generation() {
            let mut places = [[0u32; 2]; MOST];
            for (place, &slot) in places.iter_mut().zip(&self.rows) {
                *place = self.cache.place(slot, self.cache.slot_len(slot));
            }
            self.state(n)?.place(&places[..n])?;
            self.placed = self.cache.generation();
        }
        let tokens = self.bound((n, Want::Each))?.program.run_and_read(0)?;
        for i in 0..n {
            self.cache.advance(self.rows[i], 1);
        }
        Ok(tokens)
    }

    /// The latest step as text, for tests.
    #[cfg(test)]
    pub(super) fn recording(&self) -> String {
        self.programs.get(&self.latest).map_or_else(String::new, |bound| bound.program.recording())
    }

    /// What the latest step was run for: one u32, or f32 logits.
    ///
    /// # Errors
    /// The device failed; there was no step.
    pub(super) fn read<T: bytemuck::Pod>(&self, out: &mut [T]) -> Result<()> {
        match self.programs.get(&self.latest) {
            Some(bound) => bound.program.read(0, bytemuck::cast_slice_mut(out)),
            None => Err(Error::input("nothing has been read yet")),
        }
    }

    /// Puts a prompt through in chunks.
    ///
    /// # Errors
    /// As [`Runner::step`]; cancelled between chunks, and then the cache holds what was read so far.
    pub(super) fn prompt(
        &mut self,
        slot: usize,
        tokens: &[u32],
        want: Want,
        report: &mut Report<'_>,
    ) -> Result<()> {
        self.reserve(self.cache.slot_len(slot) + tokens.len())?;
        self.chunks(slot, tokens, (tokens.len(), 0), want, report)
    }

    fn chunks(
        &mut self,
        slot: usize,
        tokens: &[u32],
        (total, mut done): (usize, usize),
        want: Want,
        report: &mut Report<'_>,
    ) -> Result<()> {
        for chunk in tokens.chunks(self.chunk) {
            self.step(slot, chunk, want)?;
            done += chunk.len();
            proceed(report, Progress { name: "prompt", done, total }).context("reading the prompt")?;
        }
        Ok(())
    }

    /// [`Runner::prompt`], and the device chooses the first token of the answer; it is ready to launch more
    /// steps of this sequence.
    ///
    /// # Errors
    /// As [`Runner::prompt`].
    pub(super) fn prompt_and_choose(
        &mut self,
        slot: usize,
        tokens: &[u32],
        sampler: &super::sampler::Sampler,
        report: &mut Report<'_>,
    ) -> Result<Pending> {
        self.reserve(self.cache.slot_len(slot) + tokens.len())?;
        let total = tokens.len();
        let (early, last) = tokens.split_at(total.saturating_sub(1) / self.chunk * self.chunk);
        self.chunks(slot, early, (total, 0), Want::Last, report)?;
        let Some(&token) = last.last() else { return Err(Error::input("there are no tokens to read")) };
        let end = self.cache.slot_len(slot) + last.len() - 1;
        self.load(&[Row { slot, token, place: self.cache.place(slot, end), sampler }])?;
        let first = if last.len() == 1 {
            self.launch()?
        } else {
            let mut places = [[0u32; 2]; LARGE_CHUNK];
            let start = self.cache.slot_len(slot);
            places
                .iter_mut()
                .zip(start..)
                .take(last.len())
                .for_each(|(p, at)| *p = self.cache.place(slot, at));
            let bound = self.bound((last.len(), Want::Next))?;
            bound.ids.overwrite(bytemuck::cast_slice(last))?;
            bound.places.overwrite(bytemuck::cast_slice(&places[..last.len()]))?;
            let first = bound.program.run_and_read(0)?;
            self.cache.advance(slot, last.len());
            first
        };
        proceed(report, Progress { name: "prompt", done: total, total }).context("reading the prompt")?;
        Ok(first)
    }
}

/// Logits of every position of a sequence, `[n, vocab]` row by row, in f32. `kind` is how keys and values
/// are kept meanwhile; by default what suits the device.
///
/// # Errors
/// No tokens, more than the model's context, an id beyond the vocabulary; the device failed.
pub fn logits(model: &Model, tokens: &[u32], kind: Option<KvKind>) -> Result<Vec<f32>> {
    let mut out = Vec::with_capacity(tokens.len() * model.config().vocab_size);
    each_logits(model, tokens, kind, &mut |_, row| out.extend_from_slice(row))?;
    Ok(out)
}

/// [`logits`] one position after another, `[vocab]` each, in little memory.
///
/// # Errors
/// As [`logits`].
pub fn each_logits(
    model: &Model,
    tokens: &[u32],
    kind: Option<KvKind>,
    each: &mut dyn FnMut(usize, &[f32]),
) -> Result<()> {
    model.check(tokens)?;
    let vocab = model.config().vocab_size;
    let mut runner = Runner::new(model, 1, kind.unwrap_or(KvKind::default_for(model.device())));
    runner.reserve(tokens.len())?;
    let chunk = ((64 << 20) / (4 * vocab)).clamp(1, runner.chunk); // at most 64 MiB of logits at once
    let mut rows = vec![0f32; chunk.min(tokens.len()) * vocab];
    for (i, tokens) in tokens.chunks(chunk).enumerate() {
        let rows = &mut rows[..tokens.len() * vocab];
        runner.step(0, tokens, Want::All)?;
        runner.read(rows)?;
        rows.chunks_exact(vocab).zip(i * chunk..).for_each(|(row, at)| each(at, row));
    }
    Ok(())
}

/// What the last layer makes of every token, after the final norm: `[n, hidden]` row by row, in f32. `kind` as for
/// [`logits`].
///
/// # Errors
/// As [`logits`].
pub fn hidden_states(model: &Model, tokens: &[u32], kind: Option<KvKind>) -> Result<Vec<f32>> {
    model.check(tokens)?;
    let width = model.config().hidden_size;
    let mut runner = Runner::new(model, 1, kind.unwrap_or(KvKind::default_for(model.device())));
    runner.reserve(tokens.len())?;
    let mut out = vec![0f32; tokens.len() * width];
    let chunk = runner.chunk;
    for (tokens, rows) in tokens.chunks(chunk).zip(out.chunks_mut(chunk * width)) {
        runner.step(0, tokens, Want::Hidden)?;
        runner.read(rows)?;
    }
    Ok(out)
}

/// Logits after each of `tokens`, `[n, vocab]` row by row, put through one by one after `prompt`. The prompt is read
/// with a cache of kind `first`, which becomes one of kind `then` before the tokens; only a cache of floats can
/// become another.
///
/// # Errors
/// As [`logits`]; a cache that cannot become another.
#[doc(hidden)]
pub fn logits_after(
    model: &Model,
    prompt: &[u32],
    tokens: &[u32],
    first: KvKind,
    then: KvKind,
) -> Result<Vec<f32>> {
    model.check(prompt)?;
    model.check(tokens)?;
    let vocab = model.config().vocab_size;
    let mut runner = Runner::new(model, 1, first);
    runner.reserve(prompt.len() + tokens.len())?;
    runner.prompt(0, prompt, Want::Last, &mut |_| std::ops::ControlFlow::Continue(()))?;
    if first != then {
        let mut next = Runner::new(model, 1, then);
        next.reserve(prompt.len() + tokens.len())?;
        next.cache.take(&runner.cache)?;
        runner = next;
    }
    let mut out = vec![0f32; tokens.len() * vocab];
    for (token, row) in tokens.iter().zip(out.chunks_mut(vocab)) {
        runner.step(0, &[*token], Want::Last)?;
        runner.read(row)?;
    }
    Ok(out)
}
