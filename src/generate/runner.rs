//! Tokens through the model, one program per shape of step.
//!
//! A step of `t` tokens is a graph over two small leaves (ids and places) and the cache. It is planned
//! once and replayed with new leaves. Growing the cache replaces its buffers, so programs are bound anew
//! then; plans themselves are kept by their structure elsewhere.
//!
//! On the GPU a step ends with the choice of the next tokens ([`crate::ops::Next`]) and writes the leaves of the
//! next step itself ([`State`]): steps are launched without waiting for what the last one chose.

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
    /// The most tokens that go through the model at once; a slow GPU takes fewer when the cache is large.
    pub(super) chunk: usize,
    pub(super) cache: KvCache,
    programs: HashMap<(usize, Want), Bound>,
    generation: u64,
    latest: (usize, Want),
    /// The device's state for each number of rows, made on first use.
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
        Self::with_kinds(model, slots, &[kind])
    }

    /// A runner whose cache keeps the first layers in `kinds`, one each, and all others in the last of these;
    /// without any, in what suits the device.
    pub(super) fn with_kinds(model: &Model, slots: usize, kinds: &[KvKind]) -> Self {
        // Sequences that share a model wait for each other's chunks.
        let chunk = if slots > 1 { CHUNK } else { chunk_on(model.device()) };
        let mut cache = model.cache(slots, KvKind::default_for(model.device()));
        cache.set_kinds(kinds);
        cache.set_chunk(chunk);
        let (generation, latest) = (cache.generation(), (0, Want::Last));
        Self {
            model: model.clone(),
            chunk,
            cache,
            programs: HashMap::new(),
            generation,
            latest,
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

    /// Lets a slot begin as another does; returns how many tokens it has then.
    ///
    /// # Errors
    /// The device failed.
    pub(super) fn share(&mut self, from: usize, to: usize, tokens: usize) -> Result<usize> {
        let shared = self.cache.share(from, to, tokens);
        self.rebind();
        shared
    }

    /// Lets a slot begin with the pages that are known for these tokens; returns how many tokens it has then.
    ///
    /// # Errors
    /// Not enough memory; the device failed.
    pub(super) fn recall(&mut self, slot: usize, tokens: &[u32]) -> Result<usize> {
        let known = self.cache.recall(slot, tokens, self.model.context_length());
        self.rebind();
        known
    }

    /// Lets others find what a slot holds, the first of these tokens.
    pub(super) fn remember(&mut self, slot: usize, tokens: &[u32]) {
        self.cache.remember(slot, tokens);
    }

    /// Limits all slots together to `tokens` tokens.
    pub(super) fn limit(&mut self, tokens: usize) {
        self.cache.set_budget(tokens);
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

    /// Makes room for `tokens` tokens in a slot, so that no step has to.
    ///
    /// # Errors
    /// More than the model's context; not enough memory.
    pub(super) fn reserve(&mut self, slot: usize, tokens: usize) -> Result<()> {
        let most = self.model.context_length();
        if tokens > most {
            return Err(Error::input(format!("{tokens} tokens are more than the model's context of {most}")));
        }
        self.cache.check()?;
        if self.cache.wants_bases() {
            self.cache.set_bases(&self.model.bases()?)?;
        }
        if self.cache.must_grow(slot, tokens) {
            // Programs hold the arrays that are about to be replaced.
            self.programs.clear();
        }
        let outcome = self.cache.reserve(slot, tokens, most);
        self.rebind();
        outcome
    }

    /// Gives up programs that are bound to buffers that the cache no longer has.
    fn rebind(&mut self) {
        if self.generation != self.cache.generation() {
            self.generation = self.cache.generation();
            self.programs.clear();
            if let (Device::GPU, Some(gpu)) = (self.model.device(), Gpu::opened()) {
                self.chunk = chunk(self.model.config(), gpu.caps(), self.chunk, self.cache.capacity());
            }
        }
    }

    /// Fills the first slot from a file; returns the tokens that it then holds. After an error it is empty.
    ///
    /// # Errors
    /// As [`Generator::load_prompt`](super::Generator::load_prompt).
    pub(super) fn restore(&mut self, path: &Path) -> Result<Vec<u32>> {
        self.cache.check()?;
        self.cache.truncate(0, 0);
        let tokens = self.cache.load(path, self.model.fingerprint(), self.model.context_length());
        self.rebind();
        let checked = tokens.and_then(|tokens| {
            self.model.check(&tokens).with_context(|| path.display().to_string())?;
            Ok(tokens)
        });
        if checked.is_err() {
            self.cache.truncate(0, 0);
        }
        checked
    }

    /// Puts tokens of one sequence through the model, after those in its slot.
    ///
    /// # Errors
    /// As [`Runner::reserve`]; the device failed. The cache then holds what it held.
    pub(super) fn step(&mut self, slot: usize, tokens: &[u32], want: Want) -> Result<()> {
        let (t, start) = (tokens.len(), self.cache.slot_len(slot));
        self.reserve(slot, start + t)?;
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
        for &slot in slots {
            self.reserve(slot, self.cache.slot_len(slot) + 1)?;
        }
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
        let n = self.rows.len();
        for i in 0..n {
            let slot = self.rows[i];
            self.reserve(slot, self.cache.slot_len(slot) + 1)?;
        }
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
        self.reserve(slot, self.cache.slot_len(slot) + tokens.len())?;
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
        self.reserve(slot, self.cache.slot_len(slot) + tokens.len())?;
        let total = tokens.len();
        let (early, last) = tokens.split_at(total.saturating_sub(1) / self.chunk * self.chunk);
        self.chunks(slot, early, (total, 0), Want::Last, report)?;
        let Some(&token) = last.last() else { return Err(Error::input("there are no tokens to read")) };
        let end = self.cache.slot_len(slot) + last.len() - 1;
        self.reserve(slot, end + 1)?;
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
