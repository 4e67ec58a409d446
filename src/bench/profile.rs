//! Which kernels a step spends its time in.
//!
//! Timestamps around a dispatch wait for all before it and cost time themselves, so three things are
//! measured: a dispatch that does nothing, which is what timestamp and start-up cost; each dispatch of the
//! step, of which that is taken off; and the step without timestamps inside. The step takes longer
//! than the sum of its kernels by the price of running one after another.

use super::batch::Sequences;
use super::{Bench, BenchOptions, BenchRow, median};
use crate::error::{Error, Result};
use crate::generate::chunk_on;
use crate::gpu::{Bind, Detail, Gpu, Recording, Seen, Step, Timed, watch};
use crate::kv_quantization::KvCache;
use crate::memory::Buffer;
use crate::models::Model;
use crate::nn::fill_stages;
use crate::wgsl::Source;
use naga::{AddressSpace, Expression, Literal, ScalarKind, TypeInner};
use std::collections::HashMap;
use std::sync::Arc;

/// Tokens of the generation that is looked at.
const TOKENS: usize = 16;
/// Empty dispatches that are timed.
const EMPTY: usize = 64;

/// The kernels of one step: a token, or a prompt, as much of it as goes through the model at once.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Profile {
    /// As [`BenchRow::test`]; the step is one token of it.
    pub test: String,
    /// Kernels by name and shape, the longest time first.
    pub kernels: Vec<KernelTime>,
    /// GPU time of a step without timestamps between its dispatches, in seconds.
    pub whole: f64,
    /// What a dispatch that does nothing takes between two timestamps, in seconds: already taken off each
    /// call of each kernel.
    pub empty: f64,
}

/// One kernel at one shape, over one step.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct KernelTime {
    /// As recordings print it.
    pub name: String,
    /// `rows x k` of a matrix kernel; else its sizes by the names that the shader gives them.
    pub shape: String,
    /// Dispatches.
    pub calls: usize,
    /// GPU time of all calls.
    pub seconds: f64,
    /// Bytes that the calls read and write, each counted once: what is bound, of the KV cache the part in
    /// use, of an embedding the rows that are looked up.
    pub bytes: f64,
}

impl KernelTime {
    /// Bytes per second; 0 if the time is too short to tell.
    pub fn bandwidth(&self) -> f64 {
        if self.seconds > 0.0 { self.bytes / self.seconds } else { 0.0 }
    }
}

impl Profile {
    /// Seconds in kernels.
    pub fn kernel_seconds(&self) -> f64 {
        self.kernels.iter().map(|k| k.seconds).sum()
    }

    /// Dispatches of a step.
    pub fn dispatches(&self) -> usize {
        self.kernels.iter().map(|k| k.calls).sum()
    }
}

/// Times each dispatch of a prompt (the longest of the options, up to what goes through the model at once) and of a
/// few generated tokens, at each depth and for each number of sequences.
///
/// # Errors
/// `is_device`: the model is not on a GPU that has timestamps; else as [`bench`](super::bench).
pub fn profile(model: &Model, options: &BenchOptions) -> Result<Vec<Profile>> {
    options.check(model)?;
    let mut bench = Bench::new(model, options)?;
    let Some(gpu) = bench.gpu.clone() else {
        return Err(Error::device("a profile needs a GPU that has timestamps"));
    };
    let empty = empty(&gpu)?;
    let longest = |list: &[usize], most| list.iter().copied().max().unwrap_or(0).min(most);
    let prompt = longest(&options.prompts, chunk_on(model.device())); // what goes through the model at once
    let generated = longest(&options.generations, TOKENS);
    let mut all = Vec::new();
    for &depth in &options.depths {
        if prompt > 0 {
            all.push(bench.profile(depth, prompt, 0, empty)?);
        }
        for &batch in options.batches.iter().filter(|_| generated > 0) {
            all.push(match batch {
                1 => bench.profile(depth, 0, generated, empty)?,
                _ => of_batch(&gpu, model, options, (depth, generated, batch), empty)?,
            });
        }
    }
    Ok(all)
}

impl Bench {
    fn profile(&mut self, depth: usize, prompt: usize, generated: usize, empty: f64) -> Result<Profile> {
        let row = BenchRow { prompt, generated, depth, batch: 1, seconds: Vec::new(), gpu_seconds: None };
        self.run(depth, prompt, generated, None)?;
        let whole = self.run(depth, prompt, generated, Some(Detail::Submissions))?;
        let mut timed = Vec::new();
        self.timed(depth, prompt, generated, |gpu, work| {
            if let Some(gpu) = gpu {
                timed = watch(gpu, Detail::Dispatches, work)?.dispatches;
            }
            Ok(())
        })?;
        Ok(sum_up(&row, &timed, Traffic::new(self.generator.cache()), whole, empty))
    }
}

/// The kernels of a step of several sequences.
fn of_batch(
    gpu: &Arc<Gpu>,
    model: &Model,
    options: &BenchOptions,
    (depth, generated, batch): (usize, usize, usize),
    empty: f64,
) -> Result<Profile> {
    let row = BenchRow { prompt: 0, generated, depth, batch, seconds: Vec::new(), gpu_seconds: None };
    let mut sequences = Sequences::new(model, options, batch)?;
    sequences.run(depth, generated, |work| work())?;
    let mut see = |detail| -> Result<Seen> {
        let mut seen = Seen::default();
        sequences.run(depth, generated, |work| {
            seen = watch(gpu, detail, work)?;
            Ok(())
        })?;
        Ok(seen)
    };
    let (whole, each) = (see(Detail::Submissions)?, see(Detail::Dispatches)?);
    // A step that ran ahead was submitted before: the others speak for it.
    let whole = whole.seconds * (generated as f64 / whole.runs.max(1) as f64).max(1.0);
    Ok(sum_up(&row, &each.dispatches, Traffic::new(sequences.cache()), whole, empty))
}

/// Sums dispatches up by kernel and shape, for one step.
fn sum_up(row: &BenchRow, timed: &[Timed], mut traffic: Traffic, whole: f64, empty: f64) -> Profile {
    let mut shapes = HashMap::new();
    let mut kernels: Vec<KernelTime> = Vec::new();
    for timed in timed {
        let shape = shape(timed, &mut shapes);
        let seconds = (timed.seconds - empty).max(0.0);
        let (name, bytes) = (&timed.dispatch.name, traffic.of(timed));
        match kernels.iter_mut().find(|k| k.name == *name && k.shape == shape) {
            Some(known) => {
                known.calls += 1;
                known.seconds += seconds;
                known.bytes += bytes;
            }
            None => kernels.push(KernelTime { name: name.clone(), shape, calls: 1, seconds, bytes }),
        }
    }
    // One step may have been submitted before the watch began; each looks its tokens up once.
    let looked_up = timed.iter().filter(|t| t.dispatch.name == "embedding").count();
    let steps = if row.generated > 0 { looked_up.max(1) } else { row.steps() };
    for kernel in &mut kernels {
        kernel.calls = kernel.calls.div_ceil(steps);
        kernel.seconds /= steps as f64;
        kernel.bytes /= steps as f64;
    }
    kernels.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    Profile { test: row.test(), kernels, whole: whole / row.steps() as f64, empty }
}

/// The median time of a dispatch that writes one word, one after another.
fn empty(gpu: &Arc<Gpu>) -> Result<f64> {
    let buffer = gpu.alloc_zeroed(4)?;
    let stages = fill_stages();
    let dispatch = |_| {
        let bind = Bind { slot: 0, offset: 0, bytes: 4, write: true };
        Step::Dispatch(stages[0].dispatch("empty", vec![bind]))
    };
    let recording = Recording { buffers: vec![4], steps: (0..EMPTY).map(dispatch).collect() };
    let prepared = gpu.prepare(&recording, &[buffer])?;
    gpu.run(&prepared)?;
    Ok(median(gpu.run_timed(&prepared)?.into_iter().map(|(_, seconds)| seconds).collect()))
}

/// Counts bytes.
struct Traffic {
    cache: Vec<Buffer>,
    /// Part of the cache that holds tokens.
    used: f64,
}

impl Traffic {
    fn new(cache: &KvCache) -> Self {
        let room = (128 * cache.pages()).max(1);
        Self { cache: cache.buffers(), used: cache.len() as f64 / room as f64 }
    }

    fn of(&mut self, timed: &Timed) -> f64 {
        let is_cache = |bound: &crate::gpu::Buffer| {
            self.cache.iter().any(|b| matches!(b, Buffer::Gpu(b) if b.is_same(bound)))
        };
        let binds = || timed.dispatch.binds.iter().zip(&timed.buffers);
        let sum = |bytes: &dyn Fn(&Bind, bool) -> f64| -> f64 {
            binds().map(|(bind, buffer)| bytes(bind, is_cache(buffer))).sum()
        };
        match timed.dispatch.name.as_str() {
            // The rows that are written are those that are read.
            "embedding" => 2.0 * sum(&|bind, _| if bind.write { bind.bytes as f64 } else { 0.0 }),
            "kv_write" => 2.0 * sum(&|bind, cache| if cache { 0.0 } else { bind.bytes as f64 }),
            _ => sum(&|bind, cache| bind.bytes as f64 * if cache { self.used } else { 1.0 }),
        }
    }
}

/// Names of the parameters of shaders, by their keys, as far as they are whole numbers, with their values
/// where these are constants of the shader.
type Names = HashMap<u64, Vec<(Option<String>, Option<u32>)>>;

/// The sizes of a dispatch in words.
fn shape(timed: &Timed, known: &mut Names) -> String {
    let dispatch = &timed.dispatch;
    let names = known.entry(dispatch.source.key()).or_insert_with(|| parameters(&dispatch.source));
    let sizes = names.iter().enumerate();
    let sizes: Vec<(&str, u32)> = sizes
        .filter_map(|(at, (name, baked))| {
            Some((name.as_deref()?, baked.or(dispatch.params.get(at).copied())?))
        })
        .collect();
    let size = |name: &str| sizes.iter().find(|(known, _)| *known == name).map(|(_, n)| *n);
    if let (Some(rows), Some(k)) = (size("rows").or(size("n")), size("k")) {
        let m = size("m").filter(|m| *m > 1).map_or(String::new(), |m| format!(", {m} at once"));
        return format!("{rows} x {k}{m}");
    }
    let sizes = sizes.iter().filter(|(name, n)| *n > 0 && *name != "stride");
    sizes.map(|(name, n)| format!("{name}={n}")).collect::<Vec<_>>().join(" ")
}

fn parameters(source: &Source) -> Vec<(Option<String>, Option<u32>)> {
    let Ok(module) = source.parse() else { return Vec::new() };
    let uniform = module.global_variables.iter().find(|(_, v)| v.space == AddressSpace::Uniform);
    let constant = module.constants.iter().find(|(_, c)| c.name.as_deref() == Some("params"));
    let (ty, values) = match (uniform, constant) {
        (Some((_, variable)), _) => (variable.ty, &[][..]),
        (None, Some((_, constant))) => match &module.global_expressions[constant.init] {
            Expression::Compose { ty, components } => (*ty, &components[..]),
            _ => return Vec::new(),
        },
        (None, None) => return Vec::new(),
    };
    let TypeInner::Struct { members, .. } = &module.types[ty].inner else { return Vec::new() };
    let whole = |ty| {
        let inner = &module.types[ty].inner;
        matches!(inner, TypeInner::Scalar(s) if s.kind == ScalarKind::Uint)
    };
    let value = |at: usize| match module.global_expressions[*values.get(at)?] {
        Expression::Literal(Literal::U32(n)) => Some(n),
        _ => None,
    };
    let members = members.iter().enumerate();
    members.map(|(at, m)| (m.name.clone().filter(|_| whole(m.ty)), value(at))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::Stage;
    use crate::wgsl::File;

    static BAKED: File = File {
        name: "test/baked.wgsl",
        text: "struct Params { rows: u32, eps: f32, k: u32 }
@group(0) @binding(0) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(1) fn main() { y[params.rows * params.k] = params.eps; }
",
    };

    #[test]
    fn parameters_have_the_names_of_the_shader() {
        let mut stage = fill_stages().swap_remove(0);
        let named = |stage: &Stage| {
            let known = parameters(&stage.source()).into_iter();
            known.filter_map(|(name, value)| Some((name?, value))).collect::<Vec<_>>()
        };
        let names = ["words", "at", "first", "seed", "stride"];
        assert_eq!(named(&stage), names.map(|name| (name.to_string(), None)));
        stage.files = vec![&BAKED];
        stage.baked = true;
        stage.params = vec![("rows", 7u32.into()), ("eps", 0.5f32.into()), ("k", 64u32.into())];
        assert_eq!(named(&stage), [("rows".to_string(), Some(7)), ("k".to_string(), Some(64))]);
    }
}
