//! `unimlx bench`: tokens per second, as llama-bench counts them, and where the time goes.

use super::args::{BenchArgs, On, Output};
use super::model::{checkpoint, load, load_by};
use super::terminal::{bytes, say};
use serde_json::{Value, json};
use std::time::Duration;
use unimlx::{
    BenchOptions, BenchRow, Device, Error, GenerateOptions, Gpu, KernelTime, Model, Profile, Result,
    bench as measure,
};

/// Prints one row per kind of work, and with `--profile` one per kernel.
pub(crate) fn bench(args: &BenchArgs) -> Result<()> {
    if args.model.device == On::Cpu && (args.roof || args.gemm.is_some()) {
        return Err(Error::input("--roof and --gemm measure a GPU, and --device says cpu"));
    }
    if args.roof {
        return roof(args.output);
    }
    if let Some(sides) = &args.gemm {
        return product(args, sides);
    }
    let (name, model) = model(args)?;
    if let Some(prompt) = args.first {
        return first(args, &name, &model, prompt);
    }
    let choice = args.filters.over(GenerateOptions { temperature: args.temp, ..GenerateOptions::default() });
    let options = BenchOptions {
        prompts: args.prompt.clone(),
        generations: args.generate.clone(),
        depths: args.depth.clone(),
        batches: args.batch.clone(),
        repetitions: args.repetitions,
        kv: args.kv.kinds.clone(),
        choice,
    };
    let gpu = if model.device() == Device::GPU { Some(Gpu::shared()?) } else { None };
    if args.profile && !gpu.as_ref().is_some_and(|gpu| gpu.caps().timestamps) {
        return Err(Error::device("--profile needs a GPU that has timestamps"));
    }
    let place = place(&model)?;
    if args.tune {
        for &batch in &args.batch {
            tune(&model, batch, args.output)?;
        }
    }
    let about = About { name, bytes: model.bytes() as u64, place, fused: !args.model.no_fuse };
    let mut sheet = Sheet::new(args.output, &ROW_COLUMNS);
    measure(&model, &options, &mut |row| sheet.row(&about.cells(&row), &about.object(&row)))?;
    if args.profile {
        // Bytes per second that this GPU reads at best.
        let roof = match model.device() {
            Device::GPU => Some(unimlx::roofs(&Gpu::shared()?)?.read * 1e9),
            Device::CPU => None,
        };
        for profile in unimlx::profile(&model, &options)? {
            print(&profile, args.output, roof)?;
        }
    }
    Ok(())
}

/// What a model runs on.
fn place(model: &Model) -> Result<String> {
    Ok(match model.device() {
        Device::GPU => Gpu::shared()?.name().to_string(),
        Device::CPU => format!("CPU, {} threads, {}", unimlx::threads(), unimlx::simd_name()),
    })
}

/// What the GPU can do at best.
fn roof(output: Output) -> Result<()> {
    let roofs = unimlx::roofs(&Gpu::shared()?)?;
    if output == Output::Table {
        return say(&roofs.to_string());
    }
    let mut sheet = Sheet::new(output, &[("roof", 0), ("value", 0), ("unit", 0)]);
    for (name, value, unit) in roofs.rows() {
        let object = json!({ "device": roofs.adapter, "roof": name, "value": value, "unit": unit });
        sheet.row(&[name.to_string(), format!("{value:.2}"), unit.to_string()], &object)?;
    }
    Ok(())
}

/// The first token of this process, and where its time went.
fn first(args: &BenchArgs, name: &str, model: &Model, prompt: usize) -> Result<()> {
    let first = unimlx::first_token(model, prompt, &args.kv.kinds)?;
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let parts = [first.time, first.planning, first.trials, first.pipelines, first.again];
    let place = place(model)?;
    let columns = [
        ("model", 20),
        ("device", 30),
        ("prompt", 7),
        ("first ms", 9),
        ("planning", 9),
        ("trials", 8),
        ("pipelines", 10),
        ("again ms", 9),
        ("GPU ms", 8),
        ("compiled, loaded", 0),
    ];
    let mut cells = vec![name.to_string(), place.clone(), prompt.to_string()];
    cells.extend(parts.map(|time| format!("{:.1}", ms(time))));
    cells.push(first.gpu.map_or("-".to_string(), |time| format!("{:.1}", ms(time))));
    cells.push(format!("{}, {}", first.compiled, first.loaded));
    let object = json!({
        "model": name, "device": place, "prompt": prompt, "first_ms": ms(first.time),
        "planning_ms": ms(first.planning), "trials_ms": ms(first.trials), "pipelines_ms": ms(first.pipelines),
        "again_ms": ms(first.again), "gpu_ms": first.gpu.map(ms),
        "compiled": first.compiled, "loaded": first.loaded,
    });
    Sheet::new(args.output, &columns).row(&cells, &object)
}

/// One product of matrices, kernel by kernel, and as a whole.
fn product(args: &BenchArgs, sides: &[usize]) -> Result<()> {
    let Ok(shape) = <[usize; 3]>::try_from(sides) else {
        return Err(Error::input(format!("--gemm takes M,N,K, three numbers, not {}", sides.len())));
    };
    let quant = args.quant.as_deref().unwrap_or("f16");
    let gemm = unimlx::gemm(shape, quant, args.repetitions)?;
    let columns = [("kernel", 16), ("us", 10), ("TFLOP/s", 8), ("shape", 20), ("weight", 0)];
    let mut sheet = Sheet::new(args.output, &columns);
    let text = shape.map(|side| side.to_string()).join(" x ");
    let whole = ("all".to_string(), gemm.whole);
    for (name, seconds) in gemm.kernels.iter().chain([&whole]) {
        let rate = gemm.operations() / seconds.max(1e-9) / 1e12;
        let cells =
            [name.clone(), format!("{:.1}", seconds * 1e6), format!("{rate:.1}"), text.clone(), quant.into()];
        let object =
            json!({ "gemm": shape, "weight": quant, "kernel": name, "us": seconds * 1e6, "tflops": rate });
        sheet.row(&cells, &object)?;
    }
    Ok(())
}

/// Every arrangement that was tried, the one in use from now on marked.
fn tune(model: &Model, tokens: usize, output: Output) -> Result<()> {
    let columns = [("tuned", 6), ("us", 9), ("GB/s", 8), ("kernel", 46), ("calls", 6), ("shape", 0)];
    let mut sheet = Sheet::new(output, &columns);
    for shape in model.tune(tokens)? {
        for (i, tried) in shape.tried.iter().enumerate() {
            let seconds = tried.outcome.as_ref().ok().copied();
            let rate = seconds.filter(|s| *s > 0.0).map(|s| shape.bytes as f64 / s / 1e9);
            let mark = match (i == 0, i == shape.best) {
                (true, true) => "own",
                (true, false) => "was",
                (false, true) => "best",
                (false, false) => "",
            };
            let why = tried.outcome.as_ref().err().map_or(String::new(), |why| format!(": {why}"));
            let number = |x: Option<f64>, digits| x.map_or("-".to_string(), |x| format!("{x:.digits$}"));
            let cells = vec![
                mark.to_string(),
                number(seconds.map(|s| s * 1e6), 2),
                number(rate, 0),
                format!("{}{why}", tried.name),
                shape.calls.to_string(),
                shape.shape.clone(),
            ];
            let object = json!({
                "tuned": shape.shape, "calls": shape.calls, "kernel": tried.name, "own": i == 0,
                "best": i == shape.best, "us": seconds.map(|s| s * 1e6), "gb_s": rate,
                "refused": tried.outcome.as_ref().err(),
            });
            sheet.row(&cells, &object)?;
        }
    }
    if output == Output::Json { Ok(()) } else { say("\n") }
}

/// A folder, the shipped model, or a shape; and what it is called.
fn model(args: &BenchArgs) -> Result<(String, Model)> {
    let Some(config) = &args.config else {
        let checkpoint = checkpoint(args.model.model.as_deref())?;
        let name = match &args.model.model {
            Some(folder) => folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned(),
            None => "storyteller".to_string(),
        };
        return Ok((name, load(&args.model, &checkpoint)?));
    };
    // A folder that only the environment names gives way.
    let named = args.model.model.as_ref().map(|folder| folder.as_os_str().to_owned());
    if named.is_some() && named != std::env::var_os("UNIMLX_MODEL") {
        return Err(Error::input("-m names a model and --config another: say one of them"));
    }
    let shape = unimlx::synthetic_config(config, args.quant.as_deref())?;
    let model = load_by(&args.model, |options| Model::synthetic(&shape, options))?;
    let quant = args.quant.as_ref().map_or(String::new(), |quant| format!(" {quant}"));
    Ok((format!("{config}{quant}"), model))
}

/// What all rows of a run share.
struct About {
    name: String,
    bytes: u64,
    place: String,
    fused: bool,
}

/// A step is a prompt, or one token.
const ROW_COLUMNS: [(&str, usize); 7] = [
    ("model", 20),
    ("size", 9),
    ("device", 30),
    ("test", 15),
    ("tokens/s", 18),
    ("ms/step", 10),
    ("GPU ms/step", 11),
];

impl About {
    fn cells(&self, row: &BenchRow) -> Vec<String> {
        vec![
            self.name.clone(),
            bytes(self.bytes),
            self.place.clone(),
            row.test(),
            format!("{:.1} ± {:.1}", row.mean(), row.deviation()),
            format!("{:.3}", row.step_seconds() * 1e3),
            row.step_gpu_seconds().map_or("-".to_string(), |seconds| format!("{:.3}", seconds * 1e3)),
        ]
    }

    fn object(&self, row: &BenchRow) -> Value {
        json!({
            "model": self.name, "bytes": self.bytes, "device": self.place, "fused": self.fused,
            "test": row.test(), "prompt": row.prompt, "generated": row.generated, "depth": row.depth, "batch": row.batch,
            "mean": row.mean(), "deviation": row.deviation(), "median": row.median(),
            "ms_per_step": row.step_seconds() * 1e3,
            "gpu_ms_per_step": row.step_gpu_seconds().map(|seconds| seconds * 1e3),
            "runs": row.rates(), "seconds": row.seconds,
        })
    }
}

/// The kernels of a step; the share of the roof only where there is one.
fn print(profile: &Profile, output: Output, roof: Option<f64>) -> Result<()> {
    let (kernels, whole, n) = (profile.kernel_seconds(), profile.whole, profile.dispatches());
    let us = |seconds: f64| format!("{:.1}", seconds * 1e6);
    // The two are measured apart: on a software adapter the kernels may seem to take longer than the whole.
    let between = (whole - kernels).max(0.0) / n.max(1) as f64;
    let note = format!(
        "\n{}, one step on the GPU: {} us; {n} dispatches whose kernels take {} us, and {:.2} us between two.\n\
         Kernel times are between timestamps, less {:.2} us, which an empty dispatch takes there.\n",
        profile.test,
        us(whole),
        us(kernels),
        between * 1e6,
        profile.empty * 1e6
    );
    match output {
        Output::Table => say(&format!("{note}\n"))?,
        Output::Md => say(&format!("{note}\n"))?,
        Output::Csv => say("\n")?,
        Output::Json => {}
    }
    let mut columns =
        vec![("kernel", 22), ("calls", 6), ("us", 10), ("us/call", 8), ("%", 5), ("GB/s", 8), ("shape", 0)];
    if roof.is_some() {
        columns.insert(6, ("% roof", 6));
    }
    let mut sheet = Sheet::new(output, &columns);
    for k in &profile.kernels {
        let share = 100.0 * k.seconds / kernels.max(1e-12);
        let of_roof = roof.map(|roof| 100.0 * k.bandwidth() / roof);
        let KernelTime { name, shape, calls, seconds, bytes, .. } = k;
        let mut cells = vec![
            name.clone(),
            calls.to_string(),
            us(*seconds),
            us(seconds / *calls as f64),
            format!("{share:.1}"),
            format!("{:.1}", k.bandwidth() / 1e9),
        ];
        cells.extend(of_roof.map(|share| format!("{share:.0}")));
        cells.push(shape.clone());
        let mut object = json!({
            "profile": profile.test, "kernel": name, "shape": shape, "calls": calls,
            "us": seconds * 1e6, "percent": share, "bytes": bytes, "gb_s": k.bandwidth() / 1e9,
            "step_us": whole * 1e6, "kernels_us": kernels * 1e6, "empty_us": profile.empty * 1e6,
        });
        if let Some(share) = of_roof {
            object["percent_of_roof"] = json!(share);
        }
        sheet.row(&cells, &object)?;
    }
    Ok(())
}

/// Rows in one of four forms, each printed as soon as it is known.
struct Sheet<'a> {
    output: Output,
    columns: &'a [(&'static str, usize)],
    /// What the cells of the first row need, at least what the columns say.
    widths: Vec<usize>,
}

impl<'a> Sheet<'a> {
    fn new(output: Output, columns: &'a [(&'static str, usize)]) -> Self {
        Self { output, columns, widths: Vec::new() }
    }

    /// `cells` are for people; the object's members are for programs.
    fn row(&mut self, cells: &[String], object: &Value) -> Result<()> {
        let head = self.widths.is_empty();
        if head {
            let widths = self.columns.iter().zip(cells);
            self.widths = widths.map(|((_, width), cell)| cell.chars().count().max(*width)).collect();
        }
        let names = || self.columns.iter().map(|(name, _)| name.to_string());
        let mut text = String::new();
        match self.output {
            Output::Table => {
                let line = |cells: &[String]| {
                    let cells = cells.iter().zip(&self.widths);
                    let line: Vec<_> = cells.map(|(cell, width)| format!("{cell:<width$}")).collect();
                    format!("{}\n", line.join(" ").trim_end())
                };
                if head {
                    text = line(&names().collect::<Vec<_>>());
                }
                text += &line(cells);
            }
            Output::Md => {
                let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
                if head {
                    text = line(&names().collect::<Vec<_>>()) + &format!("|{}\n", "---|".repeat(cells.len()));
                }
                text += &line(cells);
            }
            Output::Csv => {
                let members: Vec<(&String, &Value)> =
                    object.as_object().into_iter().flatten().filter(|(_, v)| !v.is_array()).collect();
                if head {
                    text = members.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(",") + "\n";
                }
                let cells: Vec<String> = members.iter().map(|(_, value)| csv(value)).collect();
                text += &(cells.join(",") + "\n");
            }
            Output::Json => text = format!("{object}\n"),
        }
        say(&text)
    }
}

/// Text in quotes, its quotes doubled; nothing where there is nothing.
fn csv(value: &Value) -> String {
    match value {
        Value::String(text) => format!("\"{}\"", text.replace('"', "\"\"")),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}
