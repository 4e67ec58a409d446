//! Stages around the cooperative kernel, which run without matrix units too.

use super::tests::CAPS;
use crate::dtype::Dtype;
use crate::gpu::{Bind, Buffer, Gpu, Recording, Step};
use crate::op::{Kernel, Op, Site, Spec, Stage};
use crate::ops::{Format, GateKind, Linear};
use half::f16;
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
    let gpu = Gpu::shared().ok();
    assert!(gpu.is_some() || std::env::var_os("UNIMLX_REQUIRE_GPU").is_none(), "no adapter");
    gpu.filter(|gpu| gpu.caps().f16 && gpu.caps().subgroups.is_some() && gpu.caps().workgroup_size >= 1024)
}

fn upload(gpu: &Arc<Gpu>, values: &[f32]) -> Buffer {
    let buffer = gpu.alloc(4 * values.len() as u64).unwrap();
    gpu.write(&buffer, 0, bytemuck::cast_slice(values)).unwrap();
    buffer
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
    let scales = gpu.read_vec(&buffers[3]).unwrap();
    let scale = |m: usize| f32::from_le_bytes(std::array::from_fn(|i| scales[4 * m + i]));
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
            let (actual, expected) = (value * f64::from(scale(m)), f64::from(row[k] * gain[k]) * factor);
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
    let y = gpu.read_vec(&buffers[1]).unwrap();
    for (at, bytes) in y.chunks_exact(4).enumerate() {
        let sum = |n: usize| -> f64 {
            (0..parts).map(|part| f64::from(sums[(part * M + at / N) * 2 * N + n])).sum()
        };
        let (gate, up) = (sum(at % N), sum(at % N + N));
        let expected = gate / (1.0 + (-gate).exp()) * up;
        let actual = f64::from(f32::from_le_bytes(bytes.try_into().unwrap()));
        assert!((actual - expected).abs() < 1e-5, "{at}: {actual}, not {expected}");
    }
}
