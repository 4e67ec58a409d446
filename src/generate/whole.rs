//! A whole text at once: logits and hidden states of every position.

use super::runner::{Runner, Want};
use crate::error::Result;
use crate::kv_quantization::KvKind;
use crate::models::Model;

/// Logits of every position of a sequence, `[n, vocab]` row by row, in f32. `kinds` are how keys
/// and values are kept meanwhile, as for [`Generator::with_kinds`](super::Generator::with_kinds).
///
/// # Errors
/// No tokens, more than the model's context, an id beyond the vocabulary; the device failed.
pub fn logits(model: &Model, tokens: &[u32], kinds: &[KvKind]) -> Result<Vec<f32>> {
    let mut out = Vec::with_capacity(tokens.len() * model.config().vocab_size);
    each_logits(model, tokens, kinds, &mut |_, row| out.extend_from_slice(row))?;
    Ok(out)
}

/// [`logits`] one position after another, `[vocab]` each, in little memory.
///
/// # Errors
/// As [`logits`].
pub fn each_logits(
    model: &Model,
    tokens: &[u32],
    kinds: &[KvKind],
    each: &mut dyn FnMut(usize, &[f32]),
) -> Result<()> {
    model.check(tokens)?;
    let vocab = model.config().vocab_size;
    let mut runner = Runner::with_kinds(model, 1, kinds);
    runner.reserve(0, tokens.len())?;
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

/// Hidden states of every token, after the final norm: `[n, hidden]` row by row, in f32. `kinds` as for
/// [`logits`].
///
/// # Errors
/// As [`logits`].
pub fn hidden_states(model: &Model, tokens: &[u32], kinds: &[KvKind]) -> Result<Vec<f32>> {
    model.check(tokens)?;
    let width = model.config().hidden_size;
    let mut runner = Runner::with_kinds(model, 1, kinds);
    runner.reserve(0, tokens.len())?;
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
    runner.reserve(0, prompt.len() + tokens.len())?;
    runner.prompt(0, prompt, Want::Last, &mut |_| std::ops::ControlFlow::Continue(()))?;
    if first != then {
        let mut next = Runner::new(model, 1, then);
        next.reserve(0, prompt.len() + tokens.len())?;
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
