//! The first token of a process: what a user waits for when a command starts.
//!
//! Rates are measured after a warm-up; here everything that comes before counts too, once the weights are in place:
//! the plan of the prompt's step, trials of kernels that nobody has tried on this adapter, pipelines (compiled, or
//! taken from the file in which an earlier process kept them), buffers, and the prompt itself.

use super::{BenchOptions, tokens};
use crate::array::Device;
use crate::error::{Error, Result};
use crate::generate::{GenerateOptions, Generator};
use crate::gpu::{Detail, Gpu, watch};
use crate::kv_quantization::KvKind;
use crate::models::Model;
use crate::plan::planning_time;
use std::time::{Duration, Instant};

/// What the first token of a process took.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FirstToken {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// From handing the prompt over to the first token, by the wall.
    pub time: Duration,
    /// Of this, choosing kernels and arranging them.
    pub planning: Duration,
    /// Of this, comparing kernels with their definitions, their pipelines included.
    pub trials: Duration,
    /// Of this, making pipelines ready.
    pub pipelines: Duration,
    /// Pipelines that were compiled from their source in that time.
    pub compiled: u64,
    /// Pipelines that an earlier process had compiled.
    pub loaded: u64,
    /// The same for another prompt as long, when all this is there.
    pub again: Duration,
    /// How long the GPU was busy with one more, by its own clock, if it has one.
    pub gpu: Option<Duration>,
}

/// Times the first token after a prompt of `prompt` tokens. It counts as a first only if this process has computed
/// nothing before: on a model of which no step was ever planned.
///
/// # Errors
/// No tokens, or more than the model's context; the device failed.
pub fn first_token(model: &Model, prompt: usize, kv: &[KvKind]) -> Result<FirstToken> {
    BenchOptions { prompts: vec![prompt], generations: vec![0], ..BenchOptions::default() }.check(model)?;
    let gpu = if model.device() == Device::GPU { Some(Gpu::shared()?) } else { None };
    if let Some(gpu) = &gpu {
        gpu.wait()?; // weights may still be on their way
    }
    let pipelines = || match &gpu {
        Some(gpu) => (gpu.pipeline_time(), gpu.pipelines_compiled(), gpu.pipelines_loaded()),
        None => Default::default(),
    };
    let before = (planning_time(), pipelines());
    let begin = Instant::now();
    let mut generator = Generator::with_kinds(model, kv);
    one(&mut generator, &tokens(model, 1, 0, prompt))?;
    let time = begin.elapsed();
    let (planning, pipelines) = (planning_time(), pipelines());
    let (old_planning, old_pipelines) = before;
    let trials = planning.trials - old_planning.trials;
    let tried = planning.trial_pipelines - old_planning.trial_pipelines;
    let begin = Instant::now();
    one(&mut generator, &tokens(model, 2, 0, prompt))?;
    let again = begin.elapsed();
    let mut busy = None;
    if let Some(gpu) = gpu.filter(|gpu| gpu.caps().timestamps) {
        let third = tokens(model, 3, 0, prompt);
        let seen = watch(&gpu, Detail::Submissions, || one(&mut generator, &third))?;
        busy = Some(Duration::from_secs_f64(seen.seconds));
    }
    Ok(FirstToken {
        prompt,
        time,
        planning: planning.all - old_planning.all - trials,
        trials,
        pipelines: (pipelines.0 - old_pipelines.0).saturating_sub(tried),
        compiled: pipelines.1 - old_pipelines.1,
        loaded: pipelines.2 - old_pipelines.2,
        again,
        gpu: busy,
    })
}

/// Reads a prompt, for the first of two tokens.
fn one(generator: &mut Generator, tokens: &[u32]) -> Result<()> {
    let options = GenerateOptions { max_tokens: Some(2), ignore_eos: true, ..GenerateOptions::default() };
    generator.prompt(tokens, options)?;
    generator.next().transpose()?.map(|_| ()).ok_or_else(|| Error::device("there was no token"))
}
