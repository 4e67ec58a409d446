//! Stages around the cooperative kernel, which run without matrix units too.

use super::tests::CAPS;
use super::{Epilogue, Matmul, NARROW, X_HALVES};
use crate::array::{Device, MLXArray};
use crate::dtype::Dtype;
use crate::gpu::{Bind, Buffer, Gpu, Recording, Step, or_skip};
use crate::op::{Arg, Kernel, Op, Site, Spec, Stage};
use crate::ops::kernel::declare;
use crate::ops::{Format, GateKind, Linear};
use crate::reference;
use half::{bf16, f16};
use std::sync::Arc;

const M: usize = 12;
const K: usize = 1096;
const N: usize = 46;
const EPS: f32 = 1e-5;

/// A normed and gated layer as an NVIDIA adapter computes it.
fn kernel() -> Kernel {
    let linear = Linear { norm: Some(EPS), gate: Some(GateKind::Silu), ..Linear::new(Format::Dense, false) };
    let f32s = |dims: &[usize]| Spec::new(dims, Dtype::F32);
    let inputs = [f32s(&[M, K]), f32s(&[K]), Spec::new(&[2 * N, K], Dtype::F16)];
    linear.kernels(&Site { inputs: &inputs, output: &f32s(&[M, N]), caps: &CAPS }).swap_remove(0)
}

/// Runs one stage whose bindings are these buffers, reads first.
fn run(gpu: &Arc<Gpu>, stage: &Stage, buffers: &[Buffer]) {
    let bind = |slot: usize| Bind {
        slot,
        offset: 0,
        bytes: buffers[slot].bytes(),
        write: slot >= stage.reads.len(),
    };
    let dispatch = stage.dispatch(stage.name, (0..buffers.len()).map(bind).collect());
    let recording = Recording {
        buffers: buffers.iter().map(Buffer::bytes).collect(),
        steps: vec![Step::Dispatch(dispatch)],
    };
    gpu.run(&gpu.prepare(&recording, buffers).unwrap()).unwrap();
}

fn gpu() -> Option<Arc<Gpu>> {
    or_skip(Gpu::shared())
        .filter(|gpu| gpu.caps().f16 && gpu.caps().subgroups.is_some() && gpu.caps().workgroup_size >= 1024)
}

fn upload<T: bytemuck::NoUninit>(gpu: &Arc<Gpu>, values: &[T]) -> Buffer {
    let buffer = gpu.alloc(size_of_val(values) as u64).unwrap();
    gpu.write(&buffer, 0, bytemuck::cast_slice(values)).unwrap();
    buffer
}

fn download(gpu: &Arc<Gpu>, buffer: &Buffer) -> Vec<f32> {
    bytemuck::pod_collect_to_vec(&gpu.read_vec(buffer).unwrap())
}

fn noise(count: usize, seed: u32) -> Vec<f32> {
    let bits = |i: usize| (i as u32 + seed).wrapping_mul(747_796_405).wrapping_add(2_891_336_453) >> 8;
    (0..count).map(|i| bits(i) as f32 / (1 << 23) as f32 - 1.0).collect()
}

#[test]
fn halves_are_normed_rows() {
    let Some(gpu) = gpu() else { return };
    let kernel = kernel();
    let stage = &kernel.stages[0];
    assert_eq!(stage.name, "halves");
    // Rows of very different sizes.
    let size = |m: usize| 10f32.powi(3 * (m as i32 % 5) - 6);
    let x: Vec<f32> = noise(M * K, 1).iter().enumerate().map(|(i, x)| x * size(i / K)).collect();
    let gain = noise(K, 7);
    let outputs = kernel.scratch[..2].iter().map(|&bytes| gpu.alloc(bytes).unwrap());
    let buffers: Vec<Buffer> = [upload(&gpu, &x), upload(&gpu, &gain)].into_iter().chain(outputs).collect();
    run(&gpu, stage, &buffers);
    let bytes = gpu.read_vec(&buffers[2]).unwrap();
    let halves: Vec<f32> = bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect();
    let scales = download(&gpu, &buffers[3]);
    let (bm, bk) = (16, 64);
    let steps = K.div_ceil(bk);
    assert_eq!(halves.len(), bm * bk * steps);
    for m in 0..bm {
        let row = &x[m.min(M - 1) * K..][..K];
        let mean = row.iter().map(|x| f64::from(x * x)).sum::<f64>() / K as f64;
        let factor = 1.0 / (mean + f64::from(EPS)).sqrt();
        for k in 0..bk * steps {
            let value = f64::from(halves[(k / bk * bm + m) * bk + k % bk]);
            if m >= M || k >= K {
                assert_eq!(value, 0.0, "filled up at {m}, {k}");
                continue;
            }
            let most = row.iter().zip(&gain).map(|(x, g)| (x * g).abs()).fold(0.0, f32::max);
            let (actual, expected) = (value * f64::from(scales[m]), f64::from(row[k] * gain[k]) * factor);
            let limit = f64::from(most) * factor / 2048.0;
            assert!((actual - expected).abs() <= limit, "{m}, {k}: {actual}, not {expected}");
        }
    }
}

#[test]
fn parts_of_gates_meet_before_the_gate() {
    let Some(gpu) = gpu() else { return };
    let kernel = kernel();
    let stage = kernel.stages.last().unwrap();
    assert_eq!((stage.name, kernel.stages.len()), ("matmul_combine", 3));
    let parts = kernel.scratch[2] as usize / 4 / (M * 2 * N);
    assert!(parts > 1);
    let sums = noise(parts * M * 2 * N, 3);
    let buffers = [upload(&gpu, &sums), gpu.alloc((4 * M * N) as u64).unwrap()];
    run(&gpu, stage, &buffers);
    for (at, y) in download(&gpu, &buffers[1]).into_iter().enumerate() {
        let sum = |n: usize| -> f64 {
            (0..parts).map(|part| f64::from(sums[(part * M + at / N) * 2 * N + n])).sum()
        };
        let (gate, up) = (sum(at % N), sum(at % N + N));
        let expected = gate / (1.0 + (-gate).exp()) * up;
        let actual = f64::from(y);
        assert!((actual - expected).abs() < 1e-5, "{at}: {actual}, not {expected}");
    }
}

/// A kernel that fetches a whole weight as the cooperative kernel does, and hands out what is kept in workgroup memory there
/// (`kept`) and what takes its place where f16 does not reach (`wide`).
const LOADS: &str = "
enable f16;
var<private> peak: f32;
fn put_x(at: u32, values: vec4<f16>) {}
fn put_w(at: u32, values: vec4<f16>) { kept[at / 4u] = vec4<f32>(values) / LIFT; }
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let loads = params.units * 8u / LOAD;
    if id.x < params.rows * loads {
        let row = id.x / loads;
        let k = id.x % loads * LOAD;
        keep(row * params.units * 8u + k, fetch(row, k));
        for (var i = k / 8u; i < (k + LOAD) / 8u; i++) {
            let values = wide8(row, i);
            wide[(row * params.units + i) * 2u] = values[0] / LIFT;
            wide[(row * params.units + i) * 2u + 1u] = values[1] / LIFT;
        }
    }
}
";

#[test]
fn weights_become_halves_in_the_order_that_x_is_kept_in() {
    let Some(gpu) = gpu() else { return };
    let (rows, k) = (5, 256);
    for (bits, group) in [(2, 64), (3, 32), (4, 64), (5, 64), (6, 128), (8, 32)] {
        let format = Format::Affine { bits, group };
        let dims = [k * bits as usize / 32, k / group];
        let words: Vec<u32> =
            noise(rows * dims[0], bits).iter().map(|x| x.to_bits().rotate_left(9)).collect();
        let floats = |seed: u32, size: f32| -> Vec<bf16> {
            noise(rows * dims[1], seed).iter().map(|x| bf16::from_f32(x * size)).collect()
        };
        let (scales, biases) = (floats(11, 0.02), floats(12, 0.5));
        let spec = |columns: usize, dtype| Spec::new(&[rows, columns], dtype);
        let inputs = [
            Spec::new(&[16, k], Dtype::F32),
            spec(dims[0], Dtype::U32),
            spec(dims[1], Dtype::BF16),
            spec(dims[1], Dtype::BF16),
        ];
        let site = Site { inputs: &inputs, output: &Spec::new(&[16, rows], Dtype::F32), caps: &CAPS };
        let epilogue = &Epilogue::default();
        let matmul = Matmul { site: &site, format, first: 1, epilogue, exact: false, norm: None };
        let loader = matmul.loader().unwrap();
        let mut reads = vec![("x", "array<vec4<u32>>")];
        reads.extend(&loader.bindings);
        let mut stage = Stage {
            name: "loads",
            files: [vec![&X_HALVES, &NARROW], loader.files].concat(),
            constants: loader.constants,
            reads: vec![Arg::Input(0); reads.len()],
            params: matmul.params(&matmul.chunks()[0]),
            baked: true,
            grid: [(rows * k / loader.load).div_ceil(64) as u32, 1, 1],
            ..Stage::default()
        };
        let all = "array<vec4<f32>>";
        stage.generated = declare(&stage, &reads, &[("kept", all), ("wide", all)]) + LOADS;
        let results = [0, 1].map(|_| gpu.alloc((4 * rows * k) as u64).unwrap());
        let buffers: Vec<Buffer> =
            [upload(&gpu, &[0.0f32; 8]), upload(&gpu, &words), upload(&gpu, &scales), upload(&gpu, &biases)]
                .into_iter()
                .chain(results)
                .collect();
        run(&gpu, &stage, &buffers);
        let (kept, wide) = (download(&gpu, &buffers[4]), download(&gpu, &buffers[5]));
        let part = |bytes: &[u8], spec: &Spec| {
            MLXArray::from_bytes(bytes, &spec.dims, spec.dtype, Device::CPU).unwrap()
        };
        let weight = format.rows(&[
            part(bytemuck::cast_slice(&words), &inputs[1]),
            part(bytemuck::cast_slice(&scales), &inputs[2]),
            part(bytemuck::cast_slice(&biases), &inputs[3]),
        ]);
        let mut bytes = vec![0; weight.nbytes()];
        reference::eval(&weight).unwrap().to_bytes(Dtype::F32, &mut bytes);
        let weight: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes);
        let order: [usize; 8] = match loader.order {
            4 => [0, 4, 1, 5, 2, 6, 3, 7],
            8 => [0, 2, 1, 3, 4, 6, 5, 7],
            _ => [0, 1, 2, 3, 4, 5, 6, 7],
        };
        for (at, (kept, wide)) in kept.iter().zip(&wide).enumerate() {
            let (row, column) = (at / k, at % k / 8 * 8 + order[at % 8]);
            let (scale, bias) = [&scales, &biases].map(|x| x[row * dims[1] + column / group].to_f32()).into();
            let expected = weight[row * k + column];
            let limit = (bias.abs() + scale.abs() * (1 << bits) as f32) / 1024.0;
            assert!((kept - expected).abs() <= limit, "{bits} bits, {row}, {column}: {kept}, not {expected}");
            assert!(
                (wide - expected).abs() <= limit / 1024.0,
                "{bits} bits, {row}, {column}: {wide}, not {expected}"
            );
        }
    }
}
