//! Which arrangement of a kernel is fastest here, found by measuring.
//!
//! A table in each op says which kernel suits which kind of adapter; this asks the adapter itself, once, when
//! somebody wants it to. For each op of a step that has arrangements to choose from, and each shape it has
//! there, all are timed: chains of dispatches that walk through the weights of all layers, and copies of them
//! where those would stay in a cache, a long chain less a short one, in turns so that a change of clocks
//! meets all alike. Another arrangement replaces the op's own choice only if it is clearly faster, its trial
//! agrees with the definition and it computes here what the op's own choice does.

use super::check::{trusted, verdict};
use super::fuse::rewrite;
use super::graph::{Graph, Kind, Target};
use super::program::{forget, fuses};
use super::tuned::{adopt, arrangement, candidates, key, shape};
use crate::array::MLXArray;
use crate::dtype::Dtype;
use crate::error::{Context, Error, Result};
use crate::gpu::{Bind, Buffer, Gpu, Prepared, Recording, Step};
use crate::op::{Arg, Kernel, Op, Site, Spec};
use crate::ops;
use crate::reference::Values;
use crate::trial::{tolerance, widen};
use crate::{memory, op};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time for measuring, for all shapes together.
const BUDGET: Duration = Duration::from_secs(4);
/// Rounds of all arrangements, however long they take, and the most of them.
const ROUNDS: std::ops::RangeInclusive<usize> = 3..=31;
/// How long a short chain should take; a long one takes three times that.
const CHAIN: f64 = 1e-3;
/// Dispatches of a short chain.
const LINKS: std::ops::RangeInclusive<usize> = 4..=256;
/// Bytes that hardly fit into any cache: an NVIDIA H200 has 50 MB.
const COLD: u64 = 128 << 20;
/// Sets of inputs that a chain walks through.
const SETS: usize = 64;
/// The share of the time of the op's own choice below which an arrangement replaces it: a gain must exceed what
/// measurements err by.
const WORTH: f64 = 0.97;

/// What a tuner found out about one shape of an op.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TunedShape {
    /// The op, its inputs and its output.
    pub shape: String,
    /// How often a step uses it.
    pub calls: usize,
    /// Bytes of inputs and output.
    pub bytes: usize,
    /// Every arrangement; the first is the op's own choice.
    pub tried: Vec<TriedKernel>,
    /// Which of them is used from now on.
    pub best: usize,
}

/// An arrangement of a kernel and what came of it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TriedKernel {
    /// The kernel, with those of its constants in which the arrangements differ.
    pub name: String,
    /// Seconds per use, or why it was not timed.
    pub outcome: std::result::Result<f64, String>,
}

/// All uses of an op in one shape.
pub(super) struct Class {
    pub(super) op: Arc<dyn Op>,
    pub(super) inputs: Vec<Spec>,
    pub(super) output: Spec,
    /// For each use the inputs that exist already: weights.
    pub(super) uses: Vec<Vec<Option<Buffer>>>,
}

/// Measures every op that the outputs depend on and that has arrangements, and takes the fastest into use for
/// plans made from now on, here and in later processes.
///
/// # Errors
/// No adapter, or it failed.
pub(crate) fn tune(outputs: &[MLXArray]) -> Result<Vec<TunedShape>> {
    let gpu = Gpu::shared()?;
    let classes = classes(outputs, &gpu);
    let share = BUDGET / classes.len().max(1) as u32;
    let weights = classes.iter().map(Class::bytes).sum();
    let mut shapes = Vec::new();
    for class in &classes {
        if let Some(shape) = class.tune(&gpu, weights, share)? {
            shapes.push(shape);
        }
    }
    forget();
    Ok(shapes)
}

/// The ops of a step that have arrangements to choose from.
fn classes(outputs: &[MLXArray], gpu: &Arc<Gpu>) -> Vec<Class> {
    let target = &Target::new(Some(gpu.caps()), Some(gpu));
    let mut graph = Graph::of(outputs, target);
    if fuses() {
        rewrite(&mut graph, target);
    }
    let mut classes: Vec<Class> = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    for node in &graph.nodes {
        let Kind::Op { op, inputs, .. } = &node.kind else { continue };
        let specs: Vec<Spec> = inputs.iter().map(|&i| graph.nodes[i].spec.clone()).collect();
        let site = Site { inputs: &specs, output: &node.spec, caps: gpu.caps() };
        let variants = op.variants(&site);
        // What changes an operand cannot be asked twice, and the operand may be the caller's.
        let input = |arg: &Arg| matches!(arg, Arg::Input(_) | Arg::InputPart { .. });
        let changes = variants.iter().flat_map(|k| &k.stages).any(|stage| stage.writes.iter().any(input));
        if op.in_place().is_some() || variants.is_empty() || changes {
            continue;
        }
        let same = format!("{} {:?}", shape(op.as_ref(), &site), op.words());
        let place = *known.entry(same).or_insert_with(|| {
            let (op, output) = (op.clone(), node.spec.clone());
            classes.push(Class { op, inputs: specs, output, uses: Vec::new() });
            classes.len() - 1
        });
        let leaf = |i: &usize| match graph.nodes[*i].kind {
            Kind::Leaf { index, .. } => match graph.leaves[index].buffer() {
                Some(memory::Buffer::Gpu(buffer)) => Some(buffer),
                _ => None,
            },
            _ => None,
        };
        classes[place].uses.push(inputs.iter().map(leaf).collect());
    }
    classes
}

impl Class {
    fn site<'a>(&'a self, gpu: &'a Gpu) -> Site<'a> {
        Site { inputs: &self.inputs, output: &self.output, caps: gpu.caps() }
    }

    /// Bytes of the inputs that exist already.
    fn bytes(&self) -> u64 {
        self.uses.iter().flatten().flatten().map(Buffer::bytes).sum()
    }

    /// Times what there is to choose from; nothing where that is one kernel.
    pub(super) fn tune(&self, gpu: &Arc<Gpu>, weights: u64, time: Duration) -> Result<Option<TunedShape>> {
        let (op, site) = (self.op.as_ref(), self.site(gpu));
        let Some(default) = op.kernels(&site).into_iter().find(|k| trusted(op, &self.inputs, k, gpu)) else {
            return Ok(None);
        };
        let key = key(op, &site, &default);
        let mut kernels = vec![default];
        for kernel in candidates(op, &site) {
            if kernels.iter().all(|known| arrangement(known) != arrangement(&kernel)) {
                kernels.push(kernel);
            }
        }
        let text = shape(op, &site);
        let mut tried = self.measure(gpu, &kernels, weights, time).with_context(|| text.clone())?;
        let mut best = 0;
        for i in 1..tried.len() {
            let of = |i: usize| tried[i].as_ref().ok().copied().filter(|&t| t > 0.0);
            let (Some(own), Some(least), Some(this)) = (of(0), of(best), of(i)) else { continue };
            if this < least && this < WORTH * own {
                best = i;
            }
        }
        adopt(gpu, [(key, arrangement(&kernels[best]))]);
        let names = names(&kernels);
        let tried =
            names.into_iter().zip(tried.drain(..)).map(|(name, outcome)| TriedKernel { name, outcome });
        Ok(Some(TunedShape {
            shape: text,
            calls: self.uses.len(),
            bytes: self.inputs.iter().chain([&self.output]).map(Spec::bytes).sum(),
            tried: tried.collect(),
            best,
        }))
    }

    /// Seconds per use of each kernel, or why it may not be used.
    fn measure(
        &self,
        gpu: &Arc<Gpu>,
        kernels: &[Kernel],
        weights: u64,
        time: Duration,
    ) -> Result<Vec<Result<f64, String>>> {
        let sets = self.sets(gpu, weights)?;
        let own = sets.result(&kernels[0], gpu)?;
        let warm = sets.chain(&kernels[0], sets.count, gpu)?;
        run(gpu, &warm)?;
        let each = (run(gpu, &warm)? / sets.count as f64).max(1e-7);
        let links = ((CHAIN / each) as usize).clamp(*LINKS.start(), *LINKS.end()).max(sets.count);

        let mut chains: Vec<Result<[Prepared; 2], String>> = Vec::new();
        for (i, kernel) in kernels.iter().enumerate() {
            let agrees = if i == 0 { Ok(()) } else { self.agrees(gpu, &sets, kernel, &kernels[0], &own) };
            let chain = |links| sets.chain(kernel, links, gpu);
            let chains_of = agrees.and_then(|()| Ok([chain(links)?, chain(3 * links)?]));
            if gpu.is_lost() {
                // Says so.
                gpu.wait()?;
            }
            chains.push(chains_of.map_err(|e| e.to_string()));
        }
        let mut times = vec![Vec::new(); kernels.len()];
        let start = Instant::now();
        for round in 0..*ROUNDS.end() {
            if round >= *ROUNDS.start() && start.elapsed() > time {
                break;
            }
            for (chains, times) in chains.iter().zip(&mut times) {
                let Ok([short, long]) = chains else { continue };
                // The first run of a kernel after another meets cold caches of its code.
                run(gpu, short)?;
                let (short, long) = (run(gpu, short)?, run(gpu, long)?);
                times.push((long - short) / (2 * links) as f64);
            }
        }
        Ok(chains.into_iter().zip(times).map(|(chains, times)| chains.map(|_| median(times))).collect())
    }

    /// Whether a kernel does what it should: its trial, and the same result here as the op's own choice.
    fn agrees(
        &self,
        gpu: &Arc<Gpu>,
        sets: &Sets<'_>,
        kernel: &Kernel,
        own: &Kernel,
        result: &[u8],
    ) -> Result<()> {
        let known = ops::ALL.iter().any(|(name, _)| *name == self.op.name());
        match verdict(self.op.as_ref(), &self.inputs, kernel, gpu) {
            Some(true) => {}
            None if !known => {}
            Some(false) => return Err(Error::device("it disagrees with its definition")),
            None => return Err(Error::device("no case tries it")),
        }
        let dtype = self.output.dtype;
        let (expected, actual) = (widen(result, dtype), widen(&sets.result(kernel, gpu)?, dtype));
        let largest = expected.iter().fold(0f64, |a, b| a.max(b.abs()));
        let terms = self.inputs.iter().filter_map(|s| s.dims.last().copied()).max().unwrap_or(1);
        // Kernels may round differently, and terms may be larger than their sum; what is wrong is far off.
        let limit =
            [own, kernel].map(|k| 8.0 * tolerance(dtype, terms, k.rounding, largest)).iter().sum::<f64>();
        let wrong = |(e, a): &(f64, f64)| !((e - a).abs() <= limit || e == a || e.is_nan() && a.is_nan());
        match expected.into_iter().zip(actual).enumerate().find(|(_, pair)| wrong(pair)) {
            None => Ok(()),
            Some((i, (e, a))) => {
                Err(Error::device(format!("element {i} is {a}, not {e} as the op's own choice says")))
            }
        }
    }

    /// Inputs for chains: the weights that are there, and copies of them while all together fit into a cache
    /// and the model as a whole does not.
    fn sets(&self, gpu: &Arc<Gpu>, weights: u64) -> Result<Sets<'_>> {
        let mut sets = Sets { class: self, buffers: Vec::new(), slots: Vec::new(), output: 0, count: 0 };
        let mut shared = vec![None; self.inputs.len()];
        for uses in self.uses.iter().take(SETS) {
            let mut slots = Vec::new();
            for (i, given) in uses.iter().enumerate() {
                let slot = match (given, shared[i]) {
                    (Some(buffer), _) => sets.add(buffer.clone()),
                    (None, Some(slot)) => slot,
                    (None, None) => *shared[i].insert(sets.add(activation(&self.inputs[i], gpu)?)),
                };
                slots.push(slot);
            }
            sets.slots.push(slots);
        }
        sets.output = sets.add(gpu.alloc(padded(&self.output))?);
        let one: u64 = self.uses[0].iter().flatten().map(Buffer::bytes).sum();
        let mut bytes = one * sets.slots.len() as u64;
        while one > 0 && bytes < COLD.min(weights) && sets.slots.len() < SETS {
            let mut slots = sets.slots[0].clone();
            let mut copied = Ok(());
            for (slot, given) in slots.iter_mut().zip(&self.uses[0]) {
                let Some(from) = given else { continue };
                match copy(from, gpu) {
                    Ok(buffer) => *slot = sets.add(buffer),
                    Err(e) => copied = Err(e),
                }
            }
            match copied {
                Ok(()) => sets.slots.push(slots),
                // What is there must do.
                Err(e) if e.is_memory() => break,
                Err(e) => return Err(e),
            }
            bytes += one;
        }
        sets.count = sets.slots.len();
        Ok(sets)
    }
}

/// Buffers that the kernels of a class run on.
struct Sets<'a> {
    class: &'a Class,
    buffers: Vec<Buffer>,
    /// The slot of each input, for each link of a chain.
    slots: Vec<Vec<usize>>,
    output: usize,
    count: usize,
}

impl Sets<'_> {
    fn add(&mut self, buffer: Buffer) -> usize {
        self.buffers.push(buffer);
        self.buffers.len() - 1
    }

    /// So many uses of a kernel, one after another.
    fn chain(&self, kernel: &Kernel, links: usize, gpu: &Arc<Gpu>) -> Result<Prepared> {
        let mut buffers = self.buffers.clone();
        for &bytes in &kernel.scratch {
            buffers.push(gpu.alloc(bytes.next_multiple_of(4).max(4))?);
        }
        let link = |i: usize| {
            let slots = &self.slots[i % self.count];
            let bind = |arg: &Arg, write: bool| {
                let whole = |slot: usize, bytes: u64| Bind { slot, offset: 0, bytes, write };
                match *arg {
                    Arg::Input(i) => whole(slots[i], padded(&self.class.inputs[i])),
                    Arg::InputPart { index, offset, bytes } => {
                        Bind { slot: slots[index], offset, bytes: bytes.next_multiple_of(4), write }
                    }
                    Arg::Output => whole(self.output, padded(&self.class.output)),
                    Arg::Scratch(i) => whole(self.buffers.len() + i, kernel.scratch[i]),
                }
            };
            let step = move |stage: &op::Stage| {
                let reads = stage.reads.iter().map(|arg| bind(arg, false));
                let binds = reads.chain(stage.writes.iter().map(|arg| bind(arg, true))).collect();
                Step::Dispatch(stage.dispatch(stage.name, binds))
            };
            kernel.stages.iter().map(step).collect::<Vec<_>>()
        };
        let steps = (0..links).flat_map(link).collect();
        gpu.prepare(&Recording { buffers: buffers.iter().map(Buffer::bytes).collect(), steps }, &buffers)
    }

    /// What a kernel computes from the first set.
    fn result(&self, kernel: &Kernel, gpu: &Arc<Gpu>) -> Result<Vec<u8>> {
        let output = &self.buffers[self.output];
        gpu.write(output, 0, &vec![0xff; output.bytes() as usize])?;
        run(gpu, &self.chain(kernel, 1, gpu)?)?;
        let mut bytes = gpu.read_vec(output)?;
        bytes.truncate(self.class.output.bytes());
        Ok(bytes)
    }
}

/// Bytes of a buffer for a value: whole words, never none.
fn padded(spec: &Spec) -> u64 {
    spec.bytes().next_multiple_of(4).max(4) as u64
}

/// Values that a layer before might have computed; integers are 0, which every index may be.
fn activation(spec: &Spec, gpu: &Arc<Gpu>) -> Result<Buffer> {
    let values = match spec.dtype {
        Dtype::U32 => Values::U(vec![0; spec.size()]),
        _ => Values::F((0..spec.size()).map(|i| ((i * 7919) % 1009) as f32 / 504.0 - 1.0).collect()),
    };
    let mut bytes = vec![0; padded(spec) as usize];
    values.to_bytes(spec.dtype, &mut bytes[..spec.bytes()]);
    let buffer = gpu.alloc(bytes.len() as u64)?;
    gpu.write(&buffer, 0, &bytes)?;
    Ok(buffer)
}

fn copy(from: &Buffer, gpu: &Arc<Gpu>) -> Result<Buffer> {
    let to = gpu.alloc(from.bytes())?;
    let bytes = from.bytes().next_multiple_of(4);
    let step = Step::Copy { src: 0, src_offset: 0, dst: 1, dst_offset: 0, bytes };
    let recording = Recording { buffers: vec![from.bytes(), to.bytes()], steps: vec![step] };
    gpu.run(&gpu.prepare(&recording, &[from.clone(), to.clone()])?)?;
    Ok(to)
}

/// Seconds from submission to completion.
fn run(gpu: &Gpu, work: &Prepared) -> Result<f64> {
    gpu.wait()?;
    let start = Instant::now();
    gpu.run(work)?;
    gpu.wait()?;
    Ok(start.elapsed().as_secs_f64())
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(0.0)
}

/// Names that tell arrangements apart: of each kernel its stages, and of the one that differs constants that are not
/// the same in all.
fn names(kernels: &[Kernel]) -> Vec<String> {
    // What goes before or comes after is short work.
    let main =
        |k: &Kernel| k.stages.iter().max_by_key(|stage| stage.constants.len()).cloned().unwrap_or_default();
    let stages: Vec<op::Stage> = kernels.iter().map(main).collect();
    let shared =
        |constant: &(&'static str, f64)| stages.iter().all(|stage| stage.constants.contains(constant));
    let name = |(kernel, stage): (&Kernel, &op::Stage)| {
        let own = stage.constants.iter().filter(|&constant| !shared(constant));
        let constants: String = own.map(|(name, value)| format!(" {name}={value}")).collect();
        let groups: u64 = stage.grid.iter().map(|&n| u64::from(n)).product();
        let mut parts: Vec<&str> = kernel.stages.iter().map(|stage| stage.name).collect();
        parts.dedup();
        format!("{}{constants}, {groups} groups", parts.join("+"))
    };
    kernels.iter().zip(&stages).map(name).collect()
}
