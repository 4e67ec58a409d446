//! Linear layers and embeddings, dense or packed as the file says.

use super::weights::Weights;
use crate::array::MLXArray;
use crate::error::Result;
use crate::ops::{self, Format};

/// A matrix `[n, k]` as the file stores it.
#[derive(Clone)]
struct Matrix {
    format: Format,
    /// The weight; for packed formats words, scales and biases.
    parts: Vec<MLXArray>,
}

impl Matrix {
    /// `<path>.weight`, with `.scales` and `.biases` if it is packed.
    fn load(weights: &mut Weights<'_>, path: &str, n: usize, k: usize) -> Result<Self> {
        let name = format!("{path}.weight");
        let Some(quantization) = weights.quantization_of(path, k)? else {
            let weight = weights.float(&name, &[n, k])?; // [n, k]
            return Ok(Self { format: Format::Dense, parts: vec![weight] });
        };
        let (bits, group) = (quantization.bits, quantization.group_size);
        let words = weights.packed(&name, &[n, k * bits / 32])?; // [n, k * bits / 32]
        let scales = weights.float(&format!("{path}.scales"), &[n, k / group])?; // [n, k / group]
        let biases = weights.float(&format!("{path}.biases"), &[n, k / group])?; // [n, k / group]
        Ok(Self { format: Format::Affine { bits: bits as u32, group }, parts: vec![words, scales, biases] })
    }
}

/// `y = x W^T + b`.
pub(crate) struct Linear {
    weight: Matrix,
    bias: Option<MLXArray>, // [n]
}

impl Linear {
    /// `<path>.weight` `[n, k]` and, if the architecture has it, `<path>.bias` `[n]`.
    pub(crate) fn load(
        weights: &mut Weights<'_>,
        path: &str,
        (n, k): (usize, usize),
        bias: bool,
    ) -> Result<Self> {
        let weight = Matrix::load(weights, path, n, k)?;
        let bias = if bias { Some(weights.float(&format!("{path}.bias"), &[n])?) } else { None };
        Ok(Self { weight, bias })
    }

    /// `[t, k] -> [t, n]`
    pub(crate) fn forward(&self, x: &MLXArray) -> MLXArray {
        let op = ops::Linear { format: self.weight.format, bias: self.bias.is_some() };
        let mut inputs = vec![x];
        inputs.extend(&self.weight.parts);
        inputs.extend(&self.bias);
        MLXArray::apply(op, &inputs)
    }
}

/// A row for each token.
pub(crate) struct Embedding {
    weight: Matrix, // [vocab, hidden]
}

impl Embedding {
    pub(crate) fn load(weights: &mut Weights<'_>, path: &str, vocab: usize, hidden: usize) -> Result<Self> {
        Ok(Self { weight: Matrix::load(weights, path, vocab, hidden)? })
    }

    /// `[t] u32 -> [t, hidden]`
    pub(crate) fn forward(&self, ids: &MLXArray) -> MLXArray {
        let mut inputs = vec![ids];
        inputs.extend(&self.weight.parts);
        MLXArray::apply(ops::Embedding { format: self.weight.format }, &inputs)
    }

    /// The same matrix as the output projection of a model with tied embeddings.
    pub(crate) fn as_linear(&self) -> Linear {
        Linear { weight: self.weight.clone(), bias: None }
    }
}
