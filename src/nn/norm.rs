//! Normalisation.

use super::weights::Weights;
use crate::array::MLXArray;
use crate::error::Result;
use crate::ops;

/// `x / rms(x) * w` over the last axis.
pub(crate) struct RmsNorm {
    weight: MLXArray, // [n]
    eps: f32,
}

impl RmsNorm {
    /// `<path>.weight` `[n]`.
    pub(crate) fn load(weights: &mut Weights<'_>, path: &str, n: usize, eps: f64) -> Result<Self> {
        Ok(Self { weight: weights.float(&format!("{path}.weight"), &[n])?, eps: eps as f32 })
    }

    /// `[.., n] -> [.., n]`
    pub(crate) fn forward(&self, x: &MLXArray) -> MLXArray {
        MLXArray::apply(ops::RmsNorm { eps: self.eps }, &[x, &self.weight])
    }
}
