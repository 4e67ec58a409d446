//! Linear layers and embeddings, dense or packed as the file says.

use super::weights::Weights;
use crate::array::MLXArray;
use crate::error::Result;
use crate::io::Quantization;
use crate::ops::{self, Format};
use crate::plan;

/// A matrix `[n, k]` as the file stores it.
#[derive(Clone)]
struct Matrix {
    format: Format,
    /// The weight; for packed formats words, scales and biases.
    parts: Vec<MLXArray>,
}

impl Matrix {
    /// `<path>.weight`, with `.scales` and `.biases` if it is packed; of several paths, all below each other.
    fn load(weights: &mut Weights<'_>, paths: &[String], ns: &[usize], k: usize) -> Result<Self> {
        let tensors = |field, k| tensors(paths, ns, field, k);
        let Some(quantization) = weights.quantization_of(&paths[0], k)? else {
            let weight = weights.floats(&tensors("weight", k))?; // [n, k]
            return Ok(Self { format: Format::Dense, parts: vec![weight] });
        };
        let (bits, group) = (quantization.bits, quantization.group_size);
        let words = weights.packed(&tensors("weight", k * bits / 32))?; // [n, k * bits / 32]
        let scales = weights.floats(&tensors("scales", k / group))?; // [n, k / group]
        let biases = weights.floats(&tensors("biases", k / group))?; // [n, k / group]
        Ok(Self { format: Format::Affine { bits: bits as u32, group }, parts: vec![words, scales, biases] })
    }

    /// Whether matrices can be one.
    fn can_join(weights: &Weights<'_>, paths: &[String], ns: &[usize], k: usize) -> Result<bool> {
        let tensors = |field, k| tensors(paths, ns, field, k);
        let first = weights.quantization_of(&paths[0], k)?;
        for path in &paths[1..] {
            if weights.quantization_of(path, k)? != first {
                return Ok(false);
            }
        }
        let Some(Quantization { bits, group_size: group, .. }) = first else {
            return weights.can_join_floats(&tensors("weight", k));
        };
        Ok(weights.can_join_packed(&tensors("weight", k * bits / 32))?
            && weights.can_join_floats(&tensors("scales", k / group))?
            && weights.can_join_floats(&tensors("biases", k / group))?)
    }
}

/// `<path>.<field>` `[n, k]` of each path and `n`.
fn tensors(paths: &[String], ns: &[usize], field: &str, k: usize) -> Vec<(String, Vec<usize>)> {
    paths.iter().zip(ns).map(|(path, &n)| (format!("{path}.{field}"), vec![n, k])).collect()
}

/// `<path>.bias` `[n]` of each path and `n`.
fn biases(paths: &[String], ns: &[usize]) -> Vec<(String, Vec<usize>)> {
    paths.iter().zip(ns).map(|(path, &n)| (format!("{path}.bias"), vec![n])).collect()
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
        Self::join(weights, &[path.to_string()], &[n], k, bias)
    }

    fn join(weights: &mut Weights<'_>, paths: &[String], ns: &[usize], k: usize, bias: bool) -> Result<Self> {
        let weight = Matrix::load(weights, paths, ns, k)?;
        let bias = if bias { Some(weights.floats(&biases(paths, ns))?) } else { None };
        Ok(Self { weight, bias })
    }

    /// `[t, k] -> [t, n]`
    pub(crate) fn forward(&self, x: &MLXArray) -> MLXArray {
        let op = ops::Linear::new(self.weight.format, self.bias.is_some());
        let mut inputs = vec![x];
        inputs.extend(&self.weight.parts);
        inputs.extend(&self.bias);
        MLXArray::apply(op, &inputs)
    }
}

/// Linear layers of one input, one matrix where they are stored alike and ops are fused: a large product costs a GPU
/// less than several small ones.
pub(crate) struct Linears<const N: usize> {
    /// One, or `N`.
    layers: Vec<Linear>,
    widths: [usize; N],
}

impl<const N: usize> Linears<N> {
    /// `<path>.<name>.weight` `[n, k]` for each name and `n`, and biases if the architecture has them.
    pub(crate) fn load(
        weights: &mut Weights<'_>,
        path: &str,
        layers: [(&str, usize); N],
        k: usize,
        bias: bool,
    ) -> Result<Self> {
        let paths = layers.map(|(name, _)| format!("{path}.{name}"));
        let widths = layers.map(|(_, n)| n);
        let joins = plan::fuses()
            && Matrix::can_join(weights, &paths, &widths, k)?
            && (!bias || weights.can_join_floats(&biases(&paths, &widths))?);
        let layers = if joins {
            vec![Linear::join(weights, &paths, &widths, k, bias)?]
        } else {
            let pairs = paths.iter().zip(widths);
            pairs.map(|(path, n)| Linear::load(weights, path, (n, k), bias)).collect::<Result<_>>()?
        };
        Ok(Self { layers, widths })
    }

    /// `[t, k] -> [t, n]` of each.
    pub(crate) fn forward(&self, x: &MLXArray) -> [MLXArray; N] {
        if let [joined] = &self.layers[..] {
            let y = joined.forward(x); // [t, sum of n]
            let mut start = 0;
            return self.widths.map(|n| {
                start += n;
                y.slice(1, start - n, n)
            });
        }
        std::array::from_fn(|i| self.layers[i].forward(x))
    }
}

/// A row for each token.
pub(crate) struct Embedding {
    weight: Matrix, // [vocab, hidden]
}

impl Embedding {
    pub(crate) fn load(weights: &mut Weights<'_>, path: &str, vocab: usize, hidden: usize) -> Result<Self> {
        Ok(Self { weight: Matrix::load(weights, &[path.to_string()], &[vocab], hidden)? })
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
