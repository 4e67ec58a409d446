//! The model that a command runs: a folder, or the one shipped inside the binary.

use super::args::{ModelArgs, On, SamplingArgs};
use super::terminal::{Status, bytes};
use std::borrow::Cow;
use std::ops::ControlFlow;
use std::path::Path;
use unimlx::{Checkpoint, Device, Error, GenerateOptions, Gpu, LoadOptions, Model, Result};

macro_rules! shipped {
    ($($name:literal),*) => {
        [$(($name, Cow::Borrowed(include_bytes!(concat!("../../examples/storyteller/", $name)).as_slice()))),*]
    };
}

/// Opens a folder, or the shipped storyteller.
pub(crate) fn checkpoint(folder: Option<&Path>) -> Result<Checkpoint> {
    match folder {
        Some(folder) => complete(Checkpoint::open(folder)),
        None => Checkpoint::from_memory(shipped![
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json"
        ]),
    }
}

/// A file that the model lacks makes it a bad model: the exit code should say so.
pub(crate) fn complete<T>(part: Result<T>) -> Result<T> {
    part.map_err(|e| if e.is_io() { Error::format(e) } else { e })
}

/// Loads the model where it is to run, showing progress.
pub(crate) fn load(args: &ModelArgs, checkpoint: &Checkpoint) -> Result<Model> {
    load_by(args, |options| Model::from_checkpoint(checkpoint, options))
}

/// A model where it is to run, from wherever `load` takes it.
pub(crate) fn load_by(
    args: &ModelArgs,
    load: impl FnOnce(LoadOptions<'_>) -> Result<Model>,
) -> Result<Model> {
    if let Some(threads) = args.threads {
        unimlx::set_threads(threads);
    }
    if args.no_fuse {
        unimlx::set_fusion(false);
    }
    let device = device(args.device)?;
    let status = Status::new();
    let mut progress = |p: unimlx::Progress<'_>| {
        let of = if p.total > p.done { format!(" of {}", bytes(p.total as u64)) } else { String::new() };
        status.show(&format!("loading {}{of}", bytes(p.done as u64)));
        ControlFlow::Continue(())
    };
    let model = load(LoadOptions { device: Some(device), progress: Some(&mut progress) });
    status.clear();
    model
}

/// Where to compute. A software adapter is slower than the CPU path, so `auto` does not take it.
fn device(on: On) -> Result<Device> {
    match on {
        On::Cpu => Ok(Device::CPU),
        On::Gpu => Gpu::shared().map(|_| Device::GPU),
        On::Auto => {
            let why = match Gpu::shared() {
                Ok(gpu) if !gpu.is_software() => return Ok(Device::GPU),
                Ok(gpu) => format!("only the software adapter {}", gpu.name()),
                Err(e) => e.to_string(),
            };
            let threads = unimlx::threads();
            eprintln!(
                "unimlx: no GPU ({why}); computing on the CPU, {threads} threads, {}",
                unimlx::simd_name()
            );
            Ok(Device::CPU)
        }
    }
}

/// The model's suggestions, overruled by flags.
pub(crate) fn options(model: &Model, args: &SamplingArgs, max_tokens: usize) -> GenerateOptions {
    let suggested = GenerateOptions::suggested(model.generation_config());
    let clock = || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(0, |d| d.as_nanos() as u64)
    };
    GenerateOptions {
        max_tokens: Some(max_tokens),
        temperature: args.temp.unwrap_or(suggested.temperature),
        repetition_penalty: args.repeat_penalty.unwrap_or(suggested.repetition_penalty),
        seed: args.seed.unwrap_or_else(clock),
        stop: args.stop.clone(),
        ..args.filters.over(suggested)
    }
}
