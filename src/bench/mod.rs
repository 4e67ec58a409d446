//! How fast a model reads and writes, measured the way llama-bench does.
//!
//! Prompt processing: `prompt` random tokens into an empty cache. Generation: `generate` tokens, one by one,
//! after `depth` tokens that are not timed. Each after a warm-up run, so that plans, kernels and pages are
//! there.

mod roof;

pub use roof::{Roofs, roofs};

use crate::error::{Error, Result};
use crate::generate::{GenerateOptions, Generator};
use crate::kv_quantization::KvKind;
use crate::models::Model;

/// What to measure.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// Tokens of the prompt; 0 leaves it out.
    pub prompt: usize,
    /// Tokens to generate; 0 leaves it out.
    pub generate: usize,
    /// Tokens in the cache before either begins.
    pub depth: usize,
    /// Timed runs.
    pub repetitions: usize,
    /// How keys and values are kept; by default what suits the device.
    pub kv: Option<KvKind>,
}

impl Default for BenchOptions {
    fn default() -> Self {
        Self { prompt: 512, generate: 128, depth: 0, repetitions: 3, kv: None }
    }
}

/// Tokens per second of one kind of work.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BenchRow {
    /// `pp512`, `tg128`, `tg128 @ d16384`.
    pub test: String,
    /// Tokens per second of each run.
    pub runs: Vec<f64>,
}

impl BenchRow {
    /// Mean of the runs.
    pub fn mean(&self) -> f64 {
        self.runs.iter().sum::<f64>() / self.runs.len().max(1) as f64
    }

    /// Standard deviation of the runs; 0 of one.
    pub fn deviation(&self) -> f64 {
        let (mean, n) = (self.mean(), self.runs.len());
        let squares: f64 = self.runs.iter().map(|x| (x - mean).powi(2)).sum();
        if n < 2 { 0.0 } else { (squares / (n - 1) as f64).sqrt() }
    }
}

/// Measures a model.
///
/// # Errors
/// More tokens than the model's context, no repetitions; the device failed.
pub fn bench(model: &Model, options: &BenchOptions) -> Result<Vec<BenchRow>> {
    let context = model.context_length();
    let most = options.depth + options.prompt.max(options.generate + 1);
    if most > context {
        return Err(Error::input(format!("{most} tokens are asked for, the model's context is {context}")));
    }
    if options.prompt == 0 && options.generate == 0 {
        return Err(Error::input("a prompt of 0 tokens and 0 to generate: there is nothing to measure"));
    }
    if options.repetitions == 0 {
        return Err(Error::input("0 repetitions measure nothing"));
    }
    let suffix = if options.depth > 0 { format!(" @ d{}", options.depth) } else { String::new() };
    let mut generator = Generator::new(model, options.kv);
    let mut rows = Vec::new();
    if options.prompt > 0 {
        let runs = times(options.repetitions, |run| {
            prepare(&mut generator, model, run, options.depth)?;
            let tokens = tokens(model, run, options.depth + options.prompt);
            generator.prompt(&tokens, steps(1))?;
            Ok(generator.stats().prompt_rate())
        });
        rows.push(BenchRow { test: format!("pp{}{suffix}", options.prompt), runs: runs? });
    }
    if options.generate > 0 {
        let runs = times(options.repetitions, |run| {
            let tokens = tokens(model, run, options.depth + 1);
            // One more than is timed: the first token is the prompt's.
            generator.prompt(&tokens, steps(options.generate + 1))?;
            generator.by_ref().try_for_each(|token| token.map(|_| ()))?;
            Ok(generator.stats().generation_rate())
        });
        rows.push(BenchRow { test: format!("tg{}{suffix}", options.generate), runs: runs? });
    }
    Ok(rows)
}

/// A warm-up, then the timed runs.
fn times(repetitions: usize, mut run: impl FnMut(usize) -> Result<f64>) -> Result<Vec<f64>> {
    run(0)?;
    (1..=repetitions).map(run).collect()
}

/// Fills the cache with the tokens that come before the timed ones.
fn prepare(generator: &mut Generator, model: &Model, run: usize, depth: usize) -> Result<()> {
    if depth == 0 { Ok(()) } else { generator.prompt(&tokens(model, run, depth), steps(1)) }
}

fn steps(n: usize) -> GenerateOptions {
    GenerateOptions { max_tokens: Some(n), ignore_eos: true, ..GenerateOptions::default() }
}

/// Tokens that differ from run to run from the first on, so that no run finds another's in the cache.
fn tokens(model: &Model, run: usize, n: usize) -> Vec<u32> {
    let vocab = model.config().vocab_size;
    (0..n).map(|i| ((run * 7919 + i * 104_729 + 1) % vocab) as u32).collect()
}
