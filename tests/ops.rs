//! Every op against its definition: each case, each kernel, each adapter's choice, and the native kernels.
//!
//! Without an adapter the GPU half is skipped (see `or_skip`).

mod support;

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::Arc;
use support::{adapters, may_have_none};
use unimlx::internals::{Gpu, Trial, or_skip};
use unimlx::ops::{Format, GateKind, Linear};
use unimlx::{ArrayShape, Case, Device, Dtype, Fill, MLXArray, Op, Spec, ops};

fn all() -> impl Iterator<Item = (&'static str, Trial)> {
    ops::ALL.iter().flat_map(|(name, cases)| {
        cases().into_iter().enumerate().map(|(i, case)| (*name, Trial::new(case, i as u64).unwrap()))
    })
}

#[test]
fn native_kernels_mean_what_the_definition_says() {
    // What only rules make exists only where it has a kernel.
    let mut native = HashSet::from(["attend", "attend_packed"]);
    for (name, trial) in all() {
        let specs: Vec<Spec> = trial.case.inputs.iter().map(Fill::spec).collect();
        let Some(kernel) = trial.case.op.cpu(&specs) else { continue };
        native.insert(name);
        trial.cpu(&kernel).unwrap_or_else(|e| panic!("{name} on the CPU: {e}"));
    }
    for (name, _) in ops::ALL {
        assert!(native.contains(name), "{name} has no native kernel");
    }
}

fn gpu() -> Option<Arc<Gpu>> {
    or_skip(Gpu::shared())
}

#[test]
fn attention_means_the_same_with_other_subgroups() {
    // Mesa's software adapter has 8 invocations in a subgroup, or 16 where it is told so, as `tests/run` does: heads of 128
    // want as many. Other adapters do not know the variable, and try their kernels once more.
    let width = if std::env::var("LP_NATIVE_VECTOR_WIDTH").is_ok_and(|v| v == "512") { "256" } else { "512" };
    if gpu().is_none() {
        return;
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_unimlx"));
    command.args(["info", "--measure", "--only", "attend"]);
    let output = command.env("LP_NATIVE_VECTOR_WIDTH", width).env("UNIMLX_CACHE", "").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("tried; wrong: nothing"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

/// A linear layer of any format, with up to 300 rows of x, columns and values of k, odd ones among them, and anything
/// that may stand before or behind it.
fn any_linear(mut below: impl FnMut(usize) -> usize) -> Case {
    let dtype = [Dtype::F32, Dtype::F16, Dtype::BF16][below(3)];
    let format = match below(3) {
        0 => Format::Dense,
        _ => Format::Affine { bits: [2, 3, 4, 5, 6, 8][below(6)], group: [32, 64, 128][below(3)] },
    };
    let most = [4, 16, 64, 300][below(4)];
    let m = 1 + below(most);
    let k = match format {
        Format::Dense => 1 + below(300),
        Format::Affine { group, .. } => group * (1 + below(300 / group)),
    };
    let mut linear = Linear::new(format, below(2) == 0);
    linear.gate = (below(3) == 0).then_some([GateKind::Silu, GateKind::Gelu][below(2)]);
    linear.residual = below(3) == 0;
    linear.norm = (m <= 8 && below(3) == 0).then_some(1e-5);
    let columns = 1 + below(if linear.gate.is_some() { 150 } else { 300 });
    let n = if linear.gate.is_some() { 2 * columns } else { columns };
    let normal = |dims: &[usize], dtype| Fill::Normal(Spec::new(dims, dtype));
    let mut inputs = vec![normal(&[m, k], Dtype::F32)];
    inputs.extend(linear.norm.map(|_| normal(&[k], dtype)));
    match format {
        Format::Dense => inputs.push(normal(&[n, k], dtype)),
        Format::Affine { bits, group } => {
            inputs.push(Fill::Bits(Spec::new(&[n, k * bits as usize / 32], Dtype::U32)));
            inputs.extend([normal(&[n, k / group], dtype), normal(&[n, k / group], dtype)]);
        }
    }
    inputs.extend(linear.bias.then(|| normal(&[n], dtype)));
    inputs.extend(linear.residual.then(|| normal(&[m, columns], Dtype::F32)));
    Case { op: Arc::new(linear), inputs, reduction: k }
}

/// `UNIMLX_SHAPES` is how many there are.
#[test]
fn linear_layers_of_any_shape_mean_what_the_definition_says() {
    let Some(gpu) = gpu() else { return };
    let count = std::env::var("UNIMLX_SHAPES").map_or(24, |count| count.parse().unwrap());
    let mut state = 1_u64;
    for i in 0..count {
        let case = any_linear(|bound| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % bound
        });
        let trial = Trial::new(case, i).unwrap();
        let specs: Vec<Spec> = trial.case.inputs.iter().map(Fill::spec).collect();
        if let Some(kernel) = trial.case.op.cpu(&specs) {
            trial.cpu(&kernel).unwrap_or_else(|e| panic!("on the CPU: {e}"));
        }
        for (j, kernel) in trial.case.kernels(gpu.caps()).iter().enumerate() {
            trial.gpu(&gpu, kernel).unwrap_or_else(|e| panic!("shape {i}, kernel {j}: {e}"));
        }
    }
}

#[test]
fn gpu_kernels_mean_what_the_definition_says() {
    let Some(gpu) = gpu() else { return };
    for (name, trial) in all() {
        let mut seen = HashSet::new();
        for (adapter, mut caps) in adapters().into_iter().chain([("this adapter", gpu.caps().clone())]) {
            caps.subgroups = caps.subgroups.and(gpu.caps().subgroups);
            caps.f16 &= gpu.caps().f16;
            caps.coop8 &= gpu.caps().coop8;
            caps.coop16 &= gpu.caps().coop16;
            caps.fragments &= gpu.caps().fragments;
            for (i, kernel) in trial.case.kernels(&caps).iter().enumerate() {
                // Adapters often choose alike; once is enough.
                if seen.insert(format!("{kernel:?}")) {
                    trial
                        .gpu(&gpu, kernel)
                        .unwrap_or_else(|e| panic!("{name}, kernel {i} for {adapter}: {e}"));
                }
            }
        }
        let none = may_have_none(&trial.case, gpu.caps());
        assert!(none || !seen.is_empty(), "{name} has no kernel: {trial}");
    }
}

/// Kernels would read them as something else, or past their end.
#[test]
fn operands_that_do_not_fit_are_refused_where_they_are_written() {
    let of = |dims: &[usize], dtype: Dtype| {
        let bytes = vec![0; dims.iter().product::<usize>() * dtype.size()];
        MLXArray::from_bytes(&bytes, dims, dtype, Device::CPU).unwrap()
    };
    let f32s = |dims: &[usize]| of(dims, Dtype::F32);
    let half = |dims: &[usize]| of(dims, Dtype::F16);
    let linear = Linear { residual: true, ..Linear::new(Format::Dense, true) };
    let (x, w, b) = (f32s(&[2, 3]), half(&[4, 3]), half(&[4]));
    let packed = |bits, group| ops::Embedding { format: Format::Affine { bits, group } };
    let (ids, words) = (of(&[1], Dtype::U32), of(&[2, 4], Dtype::U32));
    let wrong: Vec<(Arc<dyn Op>, Vec<MLXArray>)> = vec![
        (Arc::new(ops::Softmax), vec![half(&[2, 3])]),
        (Arc::new(ops::Softmax), vec![f32s(&[])]),
        (Arc::new(ops::Argmax), vec![of(&[2, 3], Dtype::I32)]),
        (Arc::new(ops::RmsNorm { eps: 1e-5 }), vec![half(&[2, 3]), half(&[3])]),
        (Arc::new(ops::RmsNorm { eps: 1e-5 }), vec![x.clone(), of(&[3], Dtype::U32)]),
        (Arc::new(ops::Gate { kind: GateKind::Silu }), vec![x.clone(), half(&[2, 3])]),
        (Arc::new(linear.clone()), vec![half(&[2, 3]), w.clone(), b.clone(), f32s(&[2, 4])]),
        (Arc::new(linear.clone()), vec![f32s(&[1, 2, 3]), w.clone(), b.clone(), f32s(&[2, 4])]),
        (Arc::new(linear.clone()), vec![x.clone(), w.clone(), half(&[1]), f32s(&[2, 4])]),
        (Arc::new(linear.clone()), vec![x.clone(), w.clone(), b.clone(), f32s(&[1, 4])]),
        (Arc::new(linear), vec![x, half(&[1, 4, 3]), b, f32s(&[2, 4])]),
        (Arc::new(packed(7, 32)), vec![ids.clone(), of(&[2, 7], Dtype::U32), f32s(&[2, 1]), f32s(&[2, 1])]),
        (Arc::new(packed(4, 32)), vec![ids, words, of(&[2, 1], Dtype::U32), of(&[2, 1], Dtype::U32)]),
    ];
    for (i, (op, inputs)) in wrong.iter().enumerate() {
        let refused = catch_unwind(AssertUnwindSafe(|| op.meaning(inputs))).is_err();
        assert!(refused, "{i}: {op:?}");
    }
}

#[test]
fn rows_of_nothing_mean_what_the_definition_says() {
    let devices = if gpu().is_some() { &[Device::CPU, Device::GPU][..] } else { &[Device::CPU] };
    for &device in devices {
        let none = |dims: &[usize], dtype| MLXArray::from_bytes(&[], dims, dtype, device).unwrap();
        let x = none(&[3, 0], Dtype::F32);
        let best = MLXArray::apply(ops::Argmax, &[&x]);
        assert_eq!(best.try_data_u32().unwrap(), [u32::MAX; 3], "{device}");
        let parts = [none(&[2, 0], Dtype::U32), none(&[2, 0], Dtype::F32)];
        let bias = MLXArray::new_cpu(vec![1.0, 2.0], ArrayShape::Shape1D(2));
        let linear = Linear::new(Format::Affine { bits: 4, group: 32 }, true);
        let y = MLXArray::apply(linear, &[&x, &parts[0], &parts[1], &parts[1], &bias]);
        assert_eq!(y.data(), [1.0, 2.0, 1.0, 2.0, 1.0, 2.0], "{device}");
    }
}
