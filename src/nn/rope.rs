//! Rotary position embedding: which frequencies, and how they stretch to longer contexts.
//!
//! Pair `i` of a head turns by `position * inv_freq[i]`. The kinds differ only in `inv_freq`, and in YaRN's
//! factor on cos and sin. Tables are computed in f64 and rounded once; the formulas are those of
//! `transformers`, whose details (truncation of the ramp, which factor wins) are part of a model.

use crate::array::{Device, MLXArray};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::io::{self, ModelConfig, RopeScaling};
use crate::ops;
use std::f64::consts::PI;

/// Rotates queries and keys by their positions.
#[derive(Clone)]
pub(crate) struct Rope {
    inv_freq: MLXArray, // [rotated / 2]
    rotated: usize,
    scale: f32,
}

impl Rope {
    /// The rotation that a configuration describes, for heads of `head_dim`.
    ///
    /// # Errors
    /// A kind that is not supported, or numbers that give no frequencies.
    pub(crate) fn new(rope: &io::Rope, config: &ModelConfig, device: Device) -> Result<Self> {
        let rotated = rotated(rope, config.head_dim)?;
        let (inv_freq, scale) = finite_table(rope, rotated)?;
        let inv_freq: Vec<f32> = inv_freq.iter().map(|&x| x as f32).collect();
        let bytes = bytemuck::cast_slice(&inv_freq);
        let inv_freq = MLXArray::from_bytes(bytes, &[rotated / 2], Dtype::F32, device)?;
        Ok(Self { inv_freq, rotated, scale: scale as f32 })
    }

    /// The angle by which each pair of channels turns from one position to the next, `[rotated / 2]`.
    ///
    /// # Errors
    /// As [`Rope::new`].
    pub(crate) fn frequencies(rope: &io::Rope, head_dim: usize) -> Result<Vec<f32>> {
        Ok(finite_table(rope, rotated(rope, head_dim)?)?.0.iter().map(|&f| f as f32).collect())
    }

    /// `[t, heads, head_dim] -> [t, heads, head_dim]`; `places` `[t, 2]` u32.
    pub(crate) fn forward(&self, x: &MLXArray, places: &MLXArray) -> MLXArray {
        let op = ops::Rope { rotated: self.rotated, scale: self.scale, interleaved: false };
        MLXArray::apply(op, &[x, places, &self.inv_freq])
    }
}

/// Values of a head that turn.
fn rotated(rope: &io::Rope, head_dim: usize) -> Result<usize> {
    let rotated = (head_dim as f64 * rope.partial_rotary_factor) as usize;
    if rotated == 0 || !rotated.is_multiple_of(2) {
        return Err(Error::format(format!(
            "config.json: {rotated} of head_dim {head_dim} would be rotated, which is not a number of pairs"
        )));
    }
    Ok(rotated)
}

fn finite_table(rope: &io::Rope, dim: usize) -> Result<(Vec<f64>, f64)> {
    let (inv_freq, scale) = table(rope, dim)?;
    if inv_freq.iter().all(|x| x.is_finite()) && scale.is_finite() {
        return Ok((inv_freq, scale));
    }
    Err(Error::format(format!(
        "config.json: `rope_theta` {} and `rope_scaling` give frequencies that are not finite",
        rope.theta
    )))
}

/// Frequencies of `dim / 2` pairs, and the factor on cos and sin.
fn table(rope: &io::Rope, dim: usize) -> Result<(Vec<f64>, f64)> {
    let base: Vec<f64> = (0..dim / 2).map(|i| rope.theta.powf(-((2 * i) as f64) / dim as f64)).collect();
    let stretched = |stretch: &dyn Fn(usize, f64) -> f64| -> Vec<f64> {
        base.iter().enumerate().map(|(i, &f)| stretch(i, f)).collect()
    };
    Ok(match &rope.scaling {
        // The base of `dynamic` grows only beyond the original context, where `context_length` stops it.
        RopeScaling::Default | RopeScaling::Dynamic { .. } => (base, 1.0),
        RopeScaling::Linear { factor } => (stretched(&|_, f| f / factor), 1.0),
        &RopeScaling::Llama3 {
            factor,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_position_embeddings: original,
        } => {
            let original = original as f64;
            let stretch = |_, f: f64| {
                let wavelength = 2.0 * PI / f;
                if wavelength < original / high {
                    f
                } else if wavelength > original / low {
                    f / factor
                } else {
                    let smooth = (original / wavelength - low) / (high - low);
                    (1.0 - smooth) * f / factor + smooth * f
                }
            };
            (stretched(&stretch), 1.0)
        }
        &RopeScaling::Yarn {
            factor,
            original_max_position_embeddings: original,
            beta_fast,
            beta_slow,
            attention_factor,
            mscale,
            mscale_all_dim,
            truncate,
        } => {
            // The pair whose wavelength fits `rotations` times into the original context.
            let pair = |rotations: f64| {
                dim as f64 * (original as f64 / (rotations * 2.0 * PI)).ln() / (2.0 * rope.theta.ln())
            };
            let (mut low, mut high) = (pair(beta_fast), pair(beta_slow));
            if truncate {
                (low, high) = (low.floor(), high.ceil());
            }
            (low, high) = (low.max(0.0), high.min((dim - 1) as f64));
            if low == high {
                high += 0.001;
            }
            let stretch = |i: usize, f: f64| {
                let interpolated = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                f / factor * interpolated + f * (1.0 - interpolated)
            };
            let temperature = |m: f64| if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 };
            let scale = match (attention_factor, mscale, mscale_all_dim) {
                (Some(scale), ..) => scale,
                (None, Some(m), Some(all)) if m != 0.0 && all != 0.0 => temperature(m) / temperature(all),
                _ => temperature(1.0),
            };
            (stretched(&stretch), scale)
        }
        RopeScaling::LongRope { .. } => {
            return Err(Error::unsupported("config.json: `rope_scaling` of type `longrope`"));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(theta: f64, scaling: RopeScaling) -> io::Rope {
        let json = format!(
            r#"{{"model_type":"llama","hidden_size":64,"intermediate_size":64,"num_hidden_layers":1,
                "num_attention_heads":1,"vocab_size":8,"rope_theta":{theta}}}"#
        );
        let mut rope = ModelConfig::parse("config.json", json.as_bytes()).unwrap().rope;
        rope.scaling = scaling;
        rope
    }

    #[test]
    fn default_is_a_geometric_sequence() {
        let (f, scale) = table(&rope(10_000.0, RopeScaling::Default), 64).unwrap();
        assert_eq!((f.len(), f[0], scale), (32, 1.0, 1.0));
        assert!((f[16] - 0.01).abs() < 1e-15);
    }

    #[test]
    fn llama3_keeps_high_and_divides_low_frequencies() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        let plain = table(&rope(500_000.0, RopeScaling::Default), 128).unwrap().0;
        let (f, _) = table(&rope(500_000.0, scaling), 128).unwrap();
        assert_eq!(f[0], plain[0]);
        assert_eq!(f[63], plain[63] / 8.0);
        assert!(f.iter().zip(&plain).all(|(a, b)| a <= b && *a >= b / 8.0));
        assert!(f.windows(2).all(|w| w[1] < w[0]));
    }

    #[test]
    fn yarn_is_a_ramp_with_a_temperature() {
        let yarn = |truncate, attention_factor, mscale, mscale_all_dim| RopeScaling::Yarn {
            factor: 4.0,
            original_max_position_embeddings: 32_768,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor,
            mscale,
            mscale_all_dim,
            truncate,
        };
        let theta = 1_000_000.0;
        let plain = table(&rope(theta, RopeScaling::Default), 128).unwrap().0;
        let (f, scale) = table(&rope(theta, yarn(true, None, None, None)), 128).unwrap();
        // low = floor(23.6), high = ceil(39.7) for these numbers.
        assert_eq!((f[23], f[40]), (plain[23], plain[40] / 4.0));
        assert!((f[24] - (plain[24] / 4.0 / 17.0 + plain[24] * 16.0 / 17.0)).abs() < 1e-12);
        assert!((scale - (0.1 * 4f64.ln() + 1.0)).abs() < 1e-12);
        let (soft, _) = table(&rope(theta, yarn(false, None, None, None)), 128).unwrap();
        assert!(soft[24] > f[24] && soft[39] < f[39]);
        assert_eq!(table(&rope(theta, yarn(true, Some(1.5), None, None)), 128).unwrap().1, 1.5);
        assert_eq!(table(&rope(theta, yarn(true, None, Some(0.7), Some(0.7))), 128).unwrap().1, 1.0);
    }
}
