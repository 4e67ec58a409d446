//! One product of matrices, by the kernels that a linear layer uses for such sizes.

use crate::array::{Device, MLXArray};
use crate::dtype::Dtype;
use crate::error::{Context, Error, Result};
use crate::gpu::{Detail, Gpu, watch};
use crate::nn::{Linear, Source, Synthetic, Weights};
use crate::plan::Program;
use std::ops::ControlFlow;

use super::{median, synthetic_config};

/// How long a product took.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Gemm {
    /// Rows of `x` and of the result, rows of the weight, length of the sums.
    pub shape: [usize; 3],
    /// Each kernel in turn and its seconds, the median of all runs.
    pub kernels: Vec<(String, f64)>,
    /// Seconds of all of them without timestamps between them, the median of all runs.
    pub whole: f64,
}

impl Gemm {
    /// Operations, 2 for each multiply-add.
    pub fn operations(&self) -> f64 {
        2.0 * self.shape.iter().map(|&side| side as f64).product::<f64>()
    }
}

/// Times `x W^T` on the GPU, for `x` `[m, k]` in f32 and a weight `[n, k]` of a kind as for [`synthetic_config`].
///
/// # Errors
/// An unknown kind, a side of 0, groups that do not divide `k`; no memory; no GPU with timestamps.
pub fn gemm(shape: [usize; 3], quant: &str, repetitions: usize) -> Result<Gemm> {
    let [m, n, k] = shape;
    if shape.contains(&0) || repetitions == 0 {
        return Err(Error::input(format!("{m} x {n} x {k}, {repetitions} times: nothing to multiply")));
    }
    let gpu = Gpu::shared()?;
    let config = synthetic_config("llama-1b", Some(quant))?;
    let mut silent = |_: crate::nn::Progress<'_>| ControlFlow::Continue(());
    let source = Source::Synthetic(Synthetic::new(&config));
    let mut weights = Weights::new(source, Device::GPU, &mut silent);
    let linear = Linear::load(&mut weights, "gemm", (n, k), false)?;
    let x = MLXArray::mutable(&[m, k], Dtype::F32, Device::GPU)?;
    fill(&x)?;
    let mut program = Program::new(&[linear.forward(&x)]).context("planning a product")?;
    program.run()?;
    gpu.wait()?;
    let mut whole = Vec::new();
    let mut each: Vec<(String, Vec<f64>)> = Vec::new();
    for _ in 0..repetitions {
        whole.push(watch(&gpu, Detail::Submissions, || program.run())?.seconds);
        let seen = watch(&gpu, Detail::Dispatches, || program.run())?.dispatches;
        each.resize_with(seen.len(), Default::default);
        for ((name, seconds), timed) in each.iter_mut().zip(seen) {
            *name = timed.dispatch.name;
            seconds.push(timed.seconds);
        }
    }
    let kernels = each.into_iter().map(|(name, seconds)| (name, median(seconds))).collect();
    Ok(Gemm { shape, kernels, whole: median(whole) })
}

/// Numbers of all sizes below 1: zeros would not warm the GPU.
fn fill(x: &MLXArray) -> Result<()> {
    let bits = |i: usize| (i as u32).wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
    let numbers: Vec<f32> = (0..x.size()).map(|i| bits(i) as f32 / u32::MAX as f32 - 0.5).collect();
    x.overwrite(bytemuck::cast_slice(&numbers))
}
