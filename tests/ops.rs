//! Every op against its definition: each case, each kernel, each adapter's choice, and the native kernels.
//!
//! The expected value is the op's meaning, interpreted. Outputs lie between words that must not change.
//! Without an adapter the GPU half is skipped, unless `UNIMLX_REQUIRE_GPU=1` promises one.

mod support;

use std::collections::HashSet;
use std::sync::Arc;
use support::{adapters, kernels};
use unimlx::internals::{Bind, Buffer, Dispatch, Gpu, Recording, Step, link, reference};
use unimlx::{Arg, Case, Device, Dtype, Fill, HostMut, HostRef, Kernel, MLXArray, Spec, ops};

/// A small generator of the same numbers on every machine.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32 ^ (self.0 >> 20) as u32
    }

    /// Normally distributed, nearly: the sum of twelve uniform ones.
    fn normal(&mut self) -> f32 {
        (0..12).map(|_| (self.bits() >> 8) as f32 / (1 << 24) as f32).sum::<f32>() - 6.0
    }
}

/// An input in packed little-endian elements.
fn fill(fill: &Fill, random: &mut Random) -> Vec<u8> {
    match fill {
        Fill::Normal(spec) => {
            let row = *spec.dims.last().unwrap_or(&1);
            let values: Vec<f32> =
                (0..spec.size()).map(|i| random.normal() * (0.5 + 0.25 * ((i / row) % 5) as f32)).collect();
            pack(&values, spec.dtype)
        }
        Fill::Bits(spec) => (0..spec.bytes() / 4).flat_map(|_| random.bits().to_le_bytes()).collect(),
        Fill::Below(spec, bound) => {
            (0..spec.size()).flat_map(|_| (random.bits() % bound).to_le_bytes()).collect()
        }
        Fill::U32(_, values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Fill::F32(_, values) => pack(values, Dtype::F32),
    }
}

fn pack(values: &[f32], dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::F16 => values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect(),
        Dtype::BF16 => values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

fn widen(bytes: &[u8], dtype: Dtype) -> Vec<f64> {
    let pairs = bytes.chunks_exact(2).map(|c| [c[0], c[1]]);
    match dtype {
        Dtype::F16 => pairs.map(|c| half::f16::from_le_bytes(c).to_f64()).collect(),
        Dtype::BF16 => pairs.map(|c| half::bf16::from_le_bytes(c).to_f64()).collect(),
        Dtype::F32 => {
            bytes.chunks_exact(4).map(|c| f64::from(f32::from_le_bytes([c[0], c[1], c[2], c[3]]))).collect()
        }
        _ => bytes.chunks_exact(4).map(|c| f64::from(u32::from_le_bytes([c[0], c[1], c[2], c[3]]))).collect(),
    }
}

/// The one place that says how far a result may be from the definition: a few roundings of the output's
/// type, times the root of the number of terms, relative to the largest result.
fn tolerance(case: &Case, output: &Spec, expected: &[f64]) -> f64 {
    let largest = expected.iter().fold(0f64, |a, b| a.max(b.abs()));
    let rounding =
        f64::from(output.dtype.epsilon()) + f64::from(f32::EPSILON) * 8.0 * (case.reduction as f64).sqrt();
    if output.dtype.is_float() { rounding * largest } else { 0.0 }
}

#[track_caller]
fn compare(what: &str, case: &Case, output: &Spec, expected: &[u8], actual: &[u8]) {
    let (expected, actual) = (widen(expected, output.dtype), widen(actual, output.dtype));
    let limit = tolerance(case, output, &expected);
    for (i, (e, a)) in expected.iter().zip(&actual).enumerate() {
        assert!(
            (e - a).abs() <= limit,
            "{what}: element {i} of {output} is {a}, not {e} +- {limit:e}\n{:?} of {:?}",
            case.op,
            case.inputs.iter().map(|f| f.spec().to_string()).collect::<Vec<_>>()
        );
    }
}

/// A case with its inputs and the value that its definition gives.
struct Prepared {
    case: Case,
    inputs: Vec<Vec<u8>>,
    output: Spec,
    expected: Vec<u8>,
}

fn prepare(case: Case, seed: u64) -> Prepared {
    let mut random = Random(seed);
    let inputs: Vec<Vec<u8>> = case.inputs.iter().map(|f| fill(f, &mut random)).collect();
    let arrays: Vec<MLXArray> = case
        .inputs
        .iter()
        .zip(&inputs)
        .map(|(f, bytes)| {
            let spec = f.spec();
            MLXArray::from_bytes(bytes, &spec.dims, spec.dtype, Device::CPU).unwrap()
        })
        .collect();
    let meaning = MLXArray::apply_shared(case.op.clone(), &arrays.iter().collect::<Vec<_>>());
    let expected = reference(&meaning).unwrap();
    Prepared { output: meaning.spec().clone(), case, inputs, expected }
}

fn all() -> impl Iterator<Item = (&'static str, Prepared)> {
    ops::ALL.iter().flat_map(|(name, cases)| {
        cases().into_iter().enumerate().map(|(i, case)| (*name, prepare(case, i as u64)))
    })
}

#[test]
fn native_kernels_mean_what_the_definition_says() {
    for (name, p) in all() {
        let specs: Vec<Spec> = p.case.inputs.iter().map(|f| f.spec()).collect();
        let Some(kernel) = p.case.op.cpu(&specs) else { panic!("{name} has no native kernel") };
        // Words, so that every dtype is aligned.
        let words = |bytes: &[u8]| -> Vec<u32> {
            let mut words = vec![0u32; bytes.len().div_ceil(4)];
            bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
            words
        };
        let inputs: Vec<Vec<u32>> = p.inputs.iter().map(|b| words(b)).collect();
        let in_place = p.case.op.in_place();
        let refs: Vec<HostRef<'_>> = (0..inputs.len())
            .filter(|i| Some(*i) != in_place)
            .map(|i| HostRef {
                bytes: &bytemuck::cast_slice(&inputs[i])[..specs[i].bytes()],
                spec: &specs[i],
            })
            .collect();
        let mut out = in_place.map_or_else(|| words(&vec![0xa5; p.output.bytes()]), |i| inputs[i].clone());
        let bytes = &mut bytemuck::cast_slice_mut(&mut out)[..p.output.bytes()];
        kernel(&refs, HostMut { bytes, spec: &p.output });
        let actual = &bytemuck::cast_slice::<u32, u8>(&out)[..p.output.bytes()];
        compare(&format!("{name} on the CPU"), &p.case, &p.output, &p.expected, actual);
    }
}

#[test]
fn gpu_kernels_mean_what_the_definition_says() {
    let gpu = match Gpu::shared() {
        Ok(gpu) => gpu,
        Err(e) if std::env::var("UNIMLX_REQUIRE_GPU").is_ok_and(|v| v == "1") => {
            panic!("a GPU was promised: {e}")
        }
        Err(_) => return,
    };
    for (name, p) in all() {
        let mut seen = HashSet::new();
        for (adapter, mut caps) in adapters().into_iter().chain([("this adapter", gpu.caps().clone())]) {
            caps.subgroups = caps.subgroups.and(gpu.caps().subgroups);
            caps.f16 &= gpu.caps().f16;
            for (i, kernel) in kernels(&p.case, &p.output, &caps).iter().enumerate() {
                // Adapters often choose alike; once is enough.
                if seen.insert(format!("{kernel:?}")) {
                    let what = format!("{name}, kernel {i} for {adapter}");
                    let actual = run(&gpu, &what, &p, kernel);
                    compare(&what, &p.case, &p.output, &p.expected, &actual);
                }
            }
        }
        assert!(!seen.is_empty(), "{name} has no kernel: {:?}", p.case);
    }
}

const GUARD: usize = 256;
const SENTINEL: u8 = 0x5a;

fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(4).max(4)
}

fn upload(gpu: &Arc<Gpu>, bytes: &[u8]) -> Buffer {
    let mut data = bytes.to_vec();
    data.resize(padded(bytes.len()), 0);
    let buffer = gpu.alloc(data.len() as u64).unwrap();
    gpu.write(&buffer, 0, &data).unwrap();
    buffer
}

/// Runs a kernel with guards around its output and gives the output's bytes.
fn run(gpu: &Arc<Gpu>, what: &str, p: &Prepared, kernel: &Kernel) -> Vec<u8> {
    let mut buffers: Vec<Buffer> = p.inputs.iter().map(|bytes| upload(gpu, bytes)).collect();
    let scratch = buffers.len();
    buffers.extend(kernel.scratch.iter().map(|&bytes| upload(gpu, &vec![0xff; bytes as usize])));
    let size = padded(p.output.bytes());
    let mut initial = vec![SENTINEL; GUARD + size + GUARD];
    if let Some(i) = p.case.op.in_place() {
        initial[GUARD..GUARD + p.output.bytes()].copy_from_slice(&p.inputs[i]);
    }
    let output = buffers.len();
    buffers.push(upload(gpu, &initial));

    let bind = |arg: &Arg, write: bool| match *arg {
        Arg::Input(i) => Bind { slot: i, offset: 0, bytes: padded(p.inputs[i].len()) as u64, write },
        Arg::InputPart { index, offset, bytes } => {
            Bind { slot: index, offset, bytes: bytes.next_multiple_of(4), write }
        }
        Arg::Output => Bind { slot: output, offset: GUARD as u64, bytes: size as u64, write },
        Arg::Scratch(i) => Bind { slot: scratch + i, offset: 0, bytes: kernel.scratch[i], write },
    };
    let steps = kernel.stages.iter().map(|stage| {
        let reads = stage.reads.iter().map(|arg| bind(arg, false));
        Step::Dispatch(Dispatch {
            name: stage.name.to_string(),
            source: link(&stage.files, &stage.generated),
            constants: stage.constants.clone(),
            binds: reads.chain(stage.writes.iter().map(|arg| bind(arg, true))).collect(),
            params: stage.params.iter().map(|(_, word)| word.bits()).collect(),
            grid: stage.grid,
        })
    });
    let recording =
        Recording { buffers: buffers.iter().map(Buffer::bytes).collect(), steps: steps.collect() };
    let prepared = gpu.prepare(&recording, &buffers).unwrap_or_else(|e| panic!("{what}: {e}"));
    gpu.run(&prepared).unwrap_or_else(|e| panic!("{what}: {e}"));
    let bytes = gpu.read_vec(&buffers[output]).unwrap_or_else(|e| panic!("{what}: {e}"));
    let guards = bytes[..GUARD].iter().chain(&bytes[GUARD + size..GUARD + size + GUARD]);
    assert!(guards.into_iter().all(|&b| b == SENTINEL), "{what} wrote outside its output: {:?}", p.case);
    bytes[GUARD..GUARD + p.output.bytes()].to_vec()
}
