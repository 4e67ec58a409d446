//! The ops on the CPU: thin closures from operands to the kernels of `cpu/`.
//!
//! Each returns `None` where an operand's dtype is not one that the kernel takes; the meaning is planned
//! then.

use super::weight::Format;
use super::{Attention, Embedding, Gate, GateKind, KvWrite, Linear, RmsNorm, Rope, Sample, sample_host};
use crate::cpu::{self, Floats, FloatsMut, Weight};
use crate::dtype::Dtype;
use crate::op::{CpuKernel, HostMut, HostRef, Spec};

fn floats<'a>(x: &HostRef<'a>) -> Floats<'a> {
    match x.spec.dtype {
        Dtype::F16 => Floats::F16(x.as_slice()),
        Dtype::BF16 => Floats::BF16(x.as_slice()),
        Dtype::F32 | Dtype::I32 | Dtype::U32 | Dtype::U8 => Floats::F32(x.as_slice()),
    }
}

fn all_f32(specs: &[Spec]) -> bool {
    specs.iter().all(|s| s.dtype == Dtype::F32)
}

/// A weight from the operands that follow `first`.
fn weight<'a>(format: Format, x: &[HostRef<'a>]) -> Weight<'a> {
    match format {
        Format::Dense => Weight::Dense(floats(&x[0])),
        Format::Affine { bits, group } => Weight::Affine {
            bits,
            group,
            words: x[0].as_slice(),
            scales: floats(&x[1]),
            biases: floats(&x[2]),
        },
    }
}

pub(super) fn linear(op: &Linear, specs: &[Spec]) -> Option<CpuKernel> {
    let (format, bias) = (op.format, op.bias);
    let bias_at = 1 + format.inputs();
    let (m, k) = (specs[0].axis(2), specs[0].axis(1));
    let n = specs[1].axis(2);
    let kernel = move |x: &[HostRef<'_>], mut y: HostMut<'_>| {
        let bias = bias.then(|| floats(&x[bias_at]));
        cpu::matmul(x[0].as_slice(), &weight(format, &x[1..]), bias, m, n, k, y.as_mut_slice());
    };
    all_f32(&specs[..1]).then(|| Box::new(kernel) as CpuKernel)
}

pub(super) fn embedding(op: &Embedding, specs: &[Spec]) -> Option<CpuKernel> {
    let format = op.format;
    let (n, k) = (specs[1].axis(2), format.k(&specs[1..]));
    Some(Box::new(move |x, mut y| {
        cpu::embedding(x[0].as_slice(), &weight(format, &x[1..]), n, k, y.as_mut_slice());
    }))
}

pub(super) fn rms_norm(op: &RmsNorm, specs: &[Spec]) -> Option<CpuKernel> {
    let (eps, width) = (op.eps, specs[0].axis(1));
    let kernel = move |x: &[HostRef<'_>], mut y: HostMut<'_>| {
        cpu::rms_norm(x[0].as_slice(), floats(&x[1]), eps, width, y.as_mut_slice());
    };
    all_f32(&specs[..1]).then(|| Box::new(kernel) as CpuKernel)
}

pub(super) fn rope(op: &Rope, specs: &[Spec]) -> Option<CpuKernel> {
    let (scale, interleaved) = (op.scale, op.interleaved);
    let (heads, dim) = (specs[0].axis(2), specs[0].axis(1));
    let kernel = move |x: &[HostRef<'_>], mut y: HostMut<'_>| {
        let (positions, table) = (x[1].as_slice(), x[2].as_slice());
        cpu::rope(x[0].as_slice(), positions, table, scale, interleaved, heads, dim, y.as_mut_slice());
    };
    (all_f32(&specs[..1]) && all_f32(&specs[2..])).then(|| Box::new(kernel) as CpuKernel)
}

pub(super) fn kv_write(_: &KvWrite, specs: &[Spec]) -> Option<CpuKernel> {
    let width = specs[0].axis(1);
    // The cache is the output; the operands left are rows and positions.
    let kernel = move |x: &[HostRef<'_>], mut cache: HostMut<'_>| {
        let cache = match cache.spec.dtype {
            Dtype::F16 => FloatsMut::F16(cache.as_mut_slice()),
            Dtype::BF16 => FloatsMut::BF16(cache.as_mut_slice()),
            Dtype::F32 | Dtype::I32 | Dtype::U32 | Dtype::U8 => FloatsMut::F32(cache.as_mut_slice()),
        };
        cpu::kv_write(cache, x[0].as_slice(), x[1].as_slice(), width);
    };
    all_f32(&specs[1..2]).then(|| Box::new(kernel) as CpuKernel)
}

pub(super) fn attention(op: &Attention, specs: &[Spec]) -> Option<CpuKernel> {
    let op = op.clone();
    let dim = specs[0].axis(1);
    let kernel = move |x: &[HostRef<'_>], mut y: HostMut<'_>| {
        let (q, k, v) = (x[0].as_slice(), floats(&x[1]), floats(&x[2]));
        let positions = x[3].as_slice();
        cpu::attention(q, k, v, positions, op.heads, op.kv_heads, dim, op.scale, op.window, y.as_mut_slice());
    };
    all_f32(&specs[..1]).then(|| Box::new(kernel) as CpuKernel)
}

pub(super) fn gate(op: &Gate, specs: &[Spec]) -> Option<CpuKernel> {
    let kind = match op.kind {
        GateKind::Silu => cpu::Gate::Silu,
        GateKind::GeluTanh => cpu::Gate::GeluTanh,
        GateKind::Gelu => cpu::Gate::Gelu,
    };
    let kernel = move |x: &[HostRef<'_>], mut y: HostMut<'_>| {
        cpu::gate(kind, x[0].as_slice(), x[1].as_slice(), y.as_mut_slice());
    };
    all_f32(specs).then(|| Box::new(kernel) as CpuKernel)
}

pub(super) fn softmax(specs: &[Spec]) -> Option<CpuKernel> {
    let width = specs[0].axis(1);
    let kernel = move |x: &[HostRef<'_>], mut y: HostMut<'_>| {
        cpu::softmax(x[0].as_slice(), width, y.as_mut_slice());
    };
    all_f32(specs).then(|| Box::new(kernel) as CpuKernel)
}

pub(super) fn argmax(specs: &[Spec]) -> Option<CpuKernel> {
    let n = specs[0].axis(1);
    let kernel = move |x: &[HostRef<'_>], mut y: HostMut<'_>| {
        let rows = x[0].as_slice::<f32>().chunks_exact(n.max(1));
        y.as_mut_slice::<u32>().iter_mut().zip(rows).for_each(|(y, row)| *y = cpu::argmax(row));
    };
    all_f32(specs).then(|| Box::new(kernel) as CpuKernel)
}

pub(super) fn sample(op: &Sample, specs: &[Spec]) -> Option<CpuKernel> {
    let op = op.clone();
    let kernel = move |x: &[HostRef<'_>], mut y: HostMut<'_>| {
        let u = x[1].as_slice::<f32>()[0];
        y.as_mut_slice::<u32>()[0] = sample_host(x[0].as_slice(), &op, u);
    };
    all_f32(specs).then(|| Box::new(kernel) as CpuKernel)
}
