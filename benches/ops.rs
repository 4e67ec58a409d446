//! How fast ops are: their test cases and sizes of real models, on the CPU and by every kernel of this
//! machine's adapter.
//!
//! `cargo bench --bench ops` times all, `cargo bench --bench ops -- linear` what has this in its name,
//! `-- large` the sizes of real models, which is where bandwidth and arithmetic show; small ones measure
//! the launch. Bytes are what the specs say, each operand read once; an element is one floating-point
//! operation.

use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use std::sync::Arc;
use std::time::{Duration, Instant};
use unimlx::internals::{Bind, Buffer, Gpu, Prepared, Recording, Step};
use unimlx::ops::{self, Attention, Format, Linear};
use unimlx::{Arg, Case, Dtype, Fill, HostMut, HostRef, Kernel, Result, Site, Spec, Stage};

/// Sizes that models have: a projection with one token and with a chunk of a prompt, and attention to a
/// long context.
fn large() -> Vec<(&'static str, Case)> {
    let normal = |dims: &[usize], dtype| Fill::Normal(Spec::new(dims, dtype));
    let linear = |format: Format, dtype, m: usize| {
        let (n, k) = (2048, 2048);
        let mut inputs = vec![normal(&[m, k], Dtype::F32)];
        match format {
            Format::Dense => inputs.push(normal(&[n, k], dtype)),
            Format::Affine { bits, group } => {
                inputs.push(Fill::Bits(Spec::new(&[n, k * bits as usize / 32], Dtype::U32)));
                inputs.extend([normal(&[n, k / group], dtype), normal(&[n, k / group], dtype)]);
            }
        }
        ("linear", Case { op: Arc::new(Linear::new(format, false)), inputs, reduction: k })
    };
    let attention = |t: u32| {
        let (heads, kv_heads, d, context) = (16, 8, 128, 4096);
        let cache = normal(&[context, kv_heads * d], Dtype::F16);
        let places = (context as u32 - t..context as u32).flat_map(|position| [position, 0]).collect();
        let inputs = vec![
            normal(&[t as usize, heads, d], Dtype::F32),
            cache.clone(),
            cache,
            Fill::U32(vec![t as usize, 2], places),
            Fill::U32(vec![context / 128], (0..context as u32 / 128).rev().collect()),
        ];
        let op = Attention {
            heads,
            kv_heads,
            scale: 1.0 / (d as f32).sqrt(),
            window: None,
            slots: 1,
            packed: None,
        };
        ("attention", Case { op: Arc::new(op), inputs, reduction: context + d })
    };
    let mut cases = Vec::new();
    for m in [1, 64] {
        cases.push(linear(Format::Dense, Dtype::BF16, m));
        for bits in [4, 8] {
            cases.push(linear(Format::Affine { bits, group: 64 }, Dtype::BF16, m));
        }
    }
    cases.extend([attention(1), attention(64), attention(512)]);
    cases
}

/// An input with harmless values: what they are changes no timing.
fn fill(fill: &Fill) -> Vec<u32> {
    let (words, spec) = (fill.spec().bytes().div_ceil(4), fill.spec());
    match fill {
        Fill::Normal(_) | Fill::Wide(_) => match spec.dtype {
            Dtype::F16 => vec![0x2e66_2e66; words],  // 0.1, twice
            Dtype::BF16 => vec![0x3dcd_3dcd; words], // 0.1, twice
            _ => vec![0.1f32.to_bits(); words],
        },
        Fill::Bits(_) => (0..words as u32).map(|i| i.wrapping_mul(0x9e37_79b9)).collect(),
        Fill::Below(_, bound) => (0..words as u32).map(|i| i % bound).collect(),
        Fill::U32(_, values) => values.clone(),
        Fill::F32(_, values) => values.iter().map(|v| v.to_bits()).collect(),
    }
}

/// A case with its inputs.
struct Loaded {
    case: Case,
    specs: Vec<Spec>,
    inputs: Vec<Vec<u32>>,
    output: Spec,
}

impl Loaded {
    fn new(case: Case) -> Self {
        let specs: Vec<Spec> = case.inputs.iter().map(Fill::spec).collect();
        let inputs: Vec<Vec<u32>> = case.inputs.iter().map(fill).collect();
        Self { output: case.output(), case, specs, inputs }
    }

    fn throughput(&self, op: &str) -> Throughput {
        let bytes = self.specs.iter().chain([&self.output]).map(|s| s.bytes() as u64).sum();
        let flops = match op {
            "linear" => 2 * self.output.size() * self.case.reduction,
            "attention" => 4 * self.output.size() * self.specs[1].dims[0],
            _ => return Throughput::Bytes(bytes),
        };
        Throughput::ElementsAndBytes { elements: flops as u64, bytes }
    }

    fn name(&self) -> String {
        let specs: Vec<String> = self.specs.iter().map(Spec::to_string).collect();
        specs.join(" ")
    }

    fn cpu(&self, group: &mut BenchmarkGroup<'_, WallTime>) {
        let Some(kernel) = self.case.op.cpu(&self.specs) else { return };
        let in_place = self.case.op.in_place();
        let refs: Vec<HostRef<'_>> = (0..self.inputs.len())
            .filter(|i| Some(*i) != in_place)
            .map(|i| HostRef {
                bytes: &bytemuck::cast_slice(&self.inputs[i])[..self.specs[i].bytes()],
                spec: &self.specs[i],
            })
            .collect();
        let mut out = vec![0u32; self.output.bytes().div_ceil(4)];
        group.bench_function(format!("cpu {}", self.name()), |b| {
            b.iter(|| {
                let bytes = &mut bytemuck::cast_slice_mut(&mut out)[..self.output.bytes()];
                kernel(&refs, HostMut { bytes, spec: &self.output });
            });
        });
    }

    fn gpu(&self, group: &mut BenchmarkGroup<'_, WallTime>, gpu: &Arc<Gpu>) -> Result<()> {
        let site = Site { inputs: &self.specs, output: &self.output, caps: gpu.caps() };
        for (i, kernel) in self.case.op.kernels(&site).iter().enumerate() {
            let prepared = self.prepare(gpu, kernel)?;
            group.bench_function(format!("gpu, kernel {i} {}", self.name()), |b| {
                b.iter_custom(|runs| {
                    let begin = Instant::now();
                    for _ in 0..runs {
                        gpu.run(&prepared).expect("the kernel runs");
                    }
                    gpu.wait().expect("the kernel ends");
                    begin.elapsed()
                });
            });
        }
        Ok(())
    }

    fn prepare(&self, gpu: &Arc<Gpu>, kernel: &Kernel) -> Result<Prepared> {
        let mut buffers: Vec<Buffer> = Vec::new();
        for words in &self.inputs {
            let buffer = gpu.alloc((4 * words.len()).max(4) as u64)?;
            gpu.write(&buffer, 0, bytemuck::cast_slice(words))?;
            buffers.push(buffer);
        }
        for bytes in [self.output.bytes() as u64].iter().chain(&kernel.scratch) {
            buffers.push(gpu.alloc_zeroed(bytes.next_multiple_of(4).max(4))?);
        }
        let output = self.inputs.len();
        let bind = |arg: &Arg, write: bool| match *arg {
            Arg::Input(i) => Bind { slot: i, offset: 0, bytes: buffers[i].bytes(), write },
            Arg::InputPart { index, offset, bytes } => {
                Bind { slot: index, offset, bytes: bytes.next_multiple_of(4), write }
            }
            Arg::Output => Bind { slot: output, offset: 0, bytes: buffers[output].bytes(), write },
            Arg::Scratch(i) => {
                let slot = output + 1 + i;
                Bind { slot, offset: 0, bytes: buffers[slot].bytes(), write }
            }
        };
        let step = |stage: &Stage| {
            let reads = stage.reads.iter().map(|arg| bind(arg, false));
            let writes = stage.writes.iter().map(|arg| bind(arg, true));
            Step::Dispatch(stage.dispatch(stage.name, reads.chain(writes).collect()))
        };
        let recording = Recording {
            buffers: buffers.iter().map(Buffer::bytes).collect(),
            steps: kernel.stages.iter().map(step).collect(),
        };
        gpu.prepare(&recording, &buffers)
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(50))
        .measurement_time(Duration::from_millis(200))
        .configure_from_args();
    let gpu = Gpu::shared().map_err(|e| println!("on the CPU alone: {e}")).ok();
    let small = ops::ALL.iter().flat_map(|(name, cases)| cases().into_iter().map(move |c| (*name, c)));
    let sets = [("large", large()), ("small", small.collect())];
    for (size, cases) in sets {
        for (name, case) in cases {
            let loaded = Loaded::new(case);
            let mut group = criterion.benchmark_group(format!("{size} {name}"));
            group.throughput(loaded.throughput(name));
            loaded.cpu(&mut group);
            // Large sizes would take minutes on a software adapter, and say nothing about GPUs.
            if let Some(gpu) = gpu.as_ref().filter(|gpu| size == "small" || !gpu.is_software()) {
                loaded.gpu(&mut group, gpu).unwrap_or_else(|e| println!("{size} {name}: {e}"));
            }
            group.finish();
        }
    }
    criterion.final_summary();
}
