//! `unimlx bench`: tokens per second, as llama-bench counts them.

use super::args::{BenchArgs, Output};
use super::model::{checkpoint, load};
use super::terminal::{bytes, say};
use serde_json::json;
use unimlx::{BenchOptions, Gpu, Result, bench as measure};

/// Prints one row per kind of work.
pub(crate) fn bench(args: &BenchArgs) -> Result<()> {
    if args.roof {
        return say(&unimlx::roofs(&Gpu::shared()?)?.to_string());
    }
    let checkpoint = checkpoint(args.model.model.as_deref())?;
    let model = load(&args.model, &checkpoint)?;
    let options = BenchOptions {
        prompt: args.prompt,
        generate: args.generate,
        depth: args.depth,
        repetitions: args.repetitions,
        kv: args.kv.map(Into::into),
    };
    let name = match &args.model.model {
        Some(folder) => folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned(),
        None => "storyteller".to_string(),
    };
    let place = match model.device() {
        unimlx::Device::GPU => Gpu::shared()?.name().to_string(),
        unimlx::Device::CPU => format!("CPU, {} threads, {}", unimlx::threads(), unimlx::simd_name()),
    };
    let rows = measure(&model, &options)?;
    let size = bytes(model.bytes() as u64);
    let mut text = match args.output {
        Output::Table => format!("{:<24} {:<10} {:<32} {:<16} tokens/s\n", "model", "size", "device", "test"),
        Output::Md => "| model | size | device | test | tokens/s |\n|---|---|---|---|---|\n".to_string(),
        Output::Csv => "model,bytes,device,test,mean,deviation\n".to_string(),
        Output::Json => String::new(),
    };
    for row in &rows {
        let (test, mean, deviation) = (&row.test, row.mean(), row.deviation());
        text += &match args.output {
            Output::Table => {
                format!("{name:<24} {size:<10} {place:<32} {test:<16} {mean:.1} ± {deviation:.1}\n")
            }
            Output::Md => format!("| {name} | {size} | {place} | {test} | {mean:.1} ± {deviation:.1} |\n"),
            Output::Csv => format!("{name},{},\"{place}\",{test},{mean:.3},{deviation:.3}\n", model.bytes()),
            Output::Json => {
                let object = json!({
                    "model": name, "bytes": model.bytes(), "device": place,
                    "test": test, "runs": row.runs, "mean": mean, "deviation": deviation,
                });
                format!("{object}\n")
            }
        };
    }
    say(&text)
}
