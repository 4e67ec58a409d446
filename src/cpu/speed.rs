//! How fast the products of one model are: `cargo test --release cpu::speed -- --ignored --nocapture`.
//! `KINDS` lists bits of weights, `ROWS` activation rows.
//!
//! Qwen3-0.6B's shapes, random weights; the sum over its layers and head as tokens per second, which is
//! what the rest of a model can only subtract from.

use super::attention::attention;
use super::floats::Floats;
use super::matmul::{Weight, matmul_at};
use super::simd::Level;
use std::time::Instant;

/// `(n, k)` of a layer's products; 28 layers and one head.
const LAYER: [(usize, usize); 4] = [(4096, 1024), (1024, 2048), (6144, 1024), (1024, 3072)];
const LAYERS: usize = 28;
const HEAD: (usize, usize) = (151_936, 1024);

struct Matrix {
    n: usize,
    k: usize,
    bits: u32,
    words: Vec<u32>,
    halves: Vec<u16>,
}

impl Matrix {
    fn new((n, k): (usize, usize), bits: u32) -> Self {
        let noise = |i: usize| (i as u32).wrapping_mul(2_654_435_761) ^ (i as u32) << 7;
        let (words, halves) = if bits == 16 { (0, n * k) } else { (n * k * bits as usize / 32, n * k / 64) };
        let halves = (0..halves).map(|i| 0x3c00 | (noise(i) >> 16) as u16 & 0x81ff).collect();
        Self { n, k, bits, words: (0..words).map(noise).collect(), halves }
    }

    fn weight(&self) -> Weight<'_> {
        let floats = Floats::BF16(&self.halves);
        match self.bits {
            16 => Weight::Dense(floats),
            bits => Weight::Affine { bits, group: 64, words: &self.words, scales: floats, biases: floats },
        }
    }

    fn bytes(&self) -> usize {
        4 * self.words.len() + if self.bits == 16 { 2 } else { 4 } * self.halves.len()
    }
}

#[test]
#[ignore = "a measurement"]
#[allow(clippy::print_stdout, reason = "a measurement")]
fn tokens_per_second() {
    let list = |name, default: &str| {
        let list = std::env::var(name).unwrap_or(default.into());
        list.split(',').map(|n| n.parse::<u32>().unwrap()).collect::<Vec<_>>()
    };
    let kinds = list("KINDS", "4,8,16,2,3,5,6");
    let rows: Vec<usize> = list("ROWS", "1,2,4,8,16,64").into_iter().map(|m| m as usize).collect();
    // The best one, and what it replaces.
    let levels: Vec<Level> = Level::available().take(2).collect();
    for bits in kinds {
        let layers: Vec<Vec<Matrix>> =
            (0..LAYERS).map(|_| LAYER.map(|shape| Matrix::new(shape, bits)).into()).collect();
        let head = Matrix::new(HEAD, bits);
        let bytes: usize = layers.iter().flatten().chain([&head]).map(Matrix::bytes).sum();
        for &m in &rows {
            let x: Vec<f32> = (0..m * 3072).map(|i| (i % 13) as f32 - 6.0).collect();
            // Only the last token of a prompt needs logits.
            let last = if m >= 64 { 1 } else { m };
            let mut y = vec![0.0; (m * 6144).max(last * HEAD.0)];
            let mut best = vec![f64::MAX; levels.len()];
            for _ in 0..if m == 1 { 20 } else { 4 } {
                // By turns, so that whatever else runs meets all levels alike.
                for (&level, best) in levels.iter().zip(&mut best) {
                    let start = Instant::now();
                    for w in layers.iter().flatten() {
                        matmul_at(level, &x[..m * w.k], &w.weight(), None, m, w.n, w.k, &mut y[..m * w.n]);
                    }
                    let (n, k) = HEAD;
                    matmul_at(level, &x[..last * k], &head.weight(), None, last, n, k, &mut y[..last * n]);
                    *best = best.min(start.elapsed().as_secs_f64());
                }
            }
            for (level, best) in levels.iter().zip(best) {
                println!(
                    "{bits:2} bits, {m:3} rows, {:11}: {:7.1} tokens/s  {:5.1} GB/s",
                    level.name(),
                    m as f64 / best,
                    bytes as f64 / best / 1e9
                );
            }
        }
    }
}

#[test]
#[ignore = "a measurement"]
#[allow(clippy::print_stdout, reason = "a measurement")]
fn attention_time() {
    let (heads, kv_heads, dim, capacity) = (16, 8, 128, 8192);
    let table: Vec<u32> = (0..capacity as u32 / 128).collect();
    let cache: Vec<u16> =
        (0..capacity * kv_heads * dim).map(|i| 0x3000 | ((i * 40_503) >> 7) as u16 & 0x83ff).collect();
    for (t, past) in [(1, 64), (1, 1024), (1, 8191), (64, 0), (512, 0), (512, 4096)] {
        let q: Vec<f32> = (0..t * heads * dim).map(|i| (i % 17) as f32 / 17.0 - 0.5).collect();
        let places: Vec<_> = (past..past + t).map(|p| [p as u32, 0]).collect();
        let mut y = vec![0.0; q.len()];
        let mut best = f64::MAX;
        for _ in 0..5 {
            let start = Instant::now();
            let cache = Floats::F16(&cache);
            attention(&q, cache, cache, (&places, &table), heads, kv_heads, dim, 0.088, None, &mut y);
            best = best.min(start.elapsed().as_secs_f64());
        }
        let flops = 4.0 * (t * heads * dim) as f64 * (past as f64 + t as f64 / 2.0);
        println!("{t:3} queries after {past:4}: {:8.0} us {:6.1} GFLOP/s", best * 1e6, flops / best / 1e9);
    }
}
