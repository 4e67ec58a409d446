//! Ten elementwise operations on a large array are one kernel: the array is read once and written once.
//!
//! `cargo run --release --example fusion`

use std::time::{Duration, Instant};
use unimlx::{ArrayShape, Device, Gpu, MLXArray, Result, set_fusion};

/// Ten operations, lazily.
pub(crate) fn chain(x: &MLXArray) -> MLXArray {
    let wave = (x * 0.5 + 1.0).sin(); // 3
    let swell = wave * x.exp(); // 2
    let bent = (swell.abs() + 1.0).sqrt(); // 3
    bent.tanh() - 0.25 // 2
}

/// Steps of the GPU work that computes it, one line each.
fn steps(x: &MLXArray, fuse: bool) -> Result<String> {
    set_fusion(fuse);
    chain(x).recording()
}

/// The best of a few runs.
fn time(x: &MLXArray, fuse: bool) -> Result<Duration> {
    set_fusion(fuse);
    let mut best = Duration::MAX;
    for _ in 0..8 {
        let begin = Instant::now();
        chain(x).try_eval()?;
        if x.device() == Device::GPU {
            Gpu::shared()?.wait()?;
        }
        best = best.min(begin.elapsed());
    }
    Ok(best)
}

fn main() -> Result<()> {
    let n = 1 << 24;
    let data = (0..n).map(|i| (i % 1000) as f32 / 500.0 - 1.0).collect();
    let x = MLXArray::new_gpu(data, ArrayShape::Shape1D(n));
    if x.device() == Device::CPU {
        println!("there is no GPU here, and fusion is for GPUs");
        return Ok(());
    }
    println!("with fusion\n{}", steps(&x, true)?);
    println!("without\n{}", steps(&x, false)?);
    let (fused, single) = (time(&x, true)?, time(&x, false)?);
    let ratio = single.as_secs_f64() / fused.as_secs_f64();
    println!("{n} elements: {fused:.2?} with fusion, {single:.2?} without: {ratio:.1} times");
    Ok(())
}
