//! Tokens through the model, one program per shape of step.
//!
//! A step of `t` tokens is a graph over two small leaves (ids and places) and the cache. It is planned
//! once and replayed with new leaves. Growing the cache replaces its buffers, so programs are bound anew
//! then; plans themselves are kept by their structure elsewhere.

use crate::array::MLXArray;
use crate::dtype::Dtype;
use crate::error::{Context, Error, Result};
use crate::kv_quantization::{KvCache, KvKind};
use crate::models::Model;
use crate::nn::{Progress, Report, proceed};
use crate::ops;
use crate::plan::Program;
use std::collections::HashMap;

/// Tokens that go through the model at once.
pub(super) const CHUNK: usize = 512;

/// What a step is run for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Want {
    /// The likeliest next token: 4 bytes come back from the device.
    Token,
    /// Logits of the last position.
    Last,
    /// Logits of every position.
    All,
}

struct Bound {
    program: Program,
    ids: MLXArray,    // [t] u32
    places: MLXArray, // [t, 2] u32
}

/// A model with a cache and the programs bound to it.
pub(super) struct Runner {
    model: Model,
    cache: KvCache,
    programs: HashMap<(usize, Want), Bound>,
    generation: u64,
    latest: (usize, Want),
}

impl Runner {
    pub(super) fn new(model: &Model, kind: KvKind) -> Self {
        let cache = model.cache(kind);
        let (generation, latest) = (cache.generation(), (0, Want::Last));
        Self { model: model.clone(), cache, programs: HashMap::new(), generation, latest }
    }

    pub(super) fn cache(&self) -> &KvCache {
        &self.cache
    }

    /// Forgets all but the first `len` tokens.
    pub(super) fn truncate(&mut self, len: usize) {
        self.cache.truncate(0, len);
    }

    /// Makes room for so many tokens in all, so that no step has to.
    ///
    /// # Errors
    /// More than the model's context; not enough memory.
    pub(super) fn reserve(&mut self, tokens: usize) -> Result<()> {
        let most = self.model.context_length();
        if tokens > most {
            return Err(Error::input(format!("{tokens} tokens are more than the model's context of {most}")));
        }
        self.cache.reserve(tokens, most)?;
        if self.generation != self.cache.generation() {
            self.generation = self.cache.generation();
            self.programs.clear();
        }
        Ok(())
    }

    /// Puts tokens through the model, after those in the cache.
    ///
    /// # Errors
    /// As [`Runner::reserve`]; the device failed. The cache then holds what it held.
    pub(super) fn step(&mut self, tokens: &[u32], want: Want) -> Result<()> {
        let (t, start) = (tokens.len(), self.cache.len());
        self.reserve(start + t)?;
        // One token and a full chunk come again and again; other lengths are the ends of prompts.
        let key = (t, want);
        self.programs.retain(|k, _| k.0 == 1 || k.0 == CHUNK || *k == key);
        let bound = match self.programs.remove(&key) {
            Some(bound) => bound,
            None => self.bind(t, want).with_context(|| format!("planning a step of {t} tokens"))?,
        };
        let bound = self.programs.entry(key).insert_entry(bound).into_mut();
        let mut places = [[0u32; 2]; CHUNK];
        places.iter_mut().zip(start..).take(t).for_each(|(p, at)| *p = self.cache.place(0, at));
        bound.ids.overwrite(bytemuck::cast_slice(tokens))?;
        bound.places.overwrite(bytemuck::cast_slice(&places[..t]))?;
        bound.program.run()?;
        self.latest = key;
        self.cache.advance(0, t);
        Ok(())
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

    fn bind(&self, t: usize, want: Want) -> Result<Bound> {
        let leaf = |dims: &[usize]| MLXArray::mutable(dims, Dtype::U32, self.model.device());
        let (ids, places) = (leaf(&[t])?, leaf(&[t, 2])?);
        let logits = self.model.forward(&ids, &places, &self.cache, want != Want::All);
        let output = match want {
            Want::Token => MLXArray::apply(ops::Argmax, &[&logits]), // [1] u32
            Want::Last | Want::All => logits,                        // [1, vocab] or [t, vocab]
        };
        Ok(Bound { program: Program::new(&[output])?, ids, places })
    }

    /// Puts a prompt through in chunks.
    ///
    /// # Errors
    /// As [`Runner::step`]; cancelled between chunks, and then the cache holds what was read so far.
    pub(super) fn prompt(&mut self, tokens: &[u32], want: Want, report: &mut Report<'_>) -> Result<()> {
        self.reserve(self.cache.len() + tokens.len())?;
        let mut done = 0;
        for chunk in tokens.chunks(CHUNK) {
            self.step(chunk, want)?;
            done += chunk.len();
            proceed(report, Progress { name: "prompt", done, total: tokens.len() })
                .context("reading the prompt")?;
        }
        Ok(())
    }
}

/// Logits of every position of a sequence, `[n, vocab]` row by row, in f32. `kind` is how keys and values
/// are kept meanwhile; by default what suits the device.
///
/// # Errors
/// No tokens, more than the model's context, an id beyond the vocabulary; the device failed.
pub fn logits(model: &Model, tokens: &[u32], kind: Option<KvKind>) -> Result<Vec<f32>> {
    model.check(tokens)?;
    let vocab = model.config().vocab_size;
    let mut runner = Runner::new(model, kind.unwrap_or(KvKind::default_for(model.device())));
    runner.reserve(tokens.len())?;
    let chunk = ((64 << 20) / (4 * vocab)).clamp(1, CHUNK); // at most 64 MiB of logits at once
    let mut out = vec![0f32; tokens.len() * vocab];
    for (tokens, rows) in tokens.chunks(chunk).zip(out.chunks_mut(chunk * vocab)) {
        runner.step(tokens, Want::All)?;
        runner.read(rows)?;
    }
    Ok(out)
}
