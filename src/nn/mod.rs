//! What is the same in every paper: linear layers, norms, rotary positions, attention over a cache.
//!
//! A layer is loaded from a [`Weights`] under its checkpoint path and then builds graphs: `forward` takes
//! lazy arrays and returns lazy arrays. Whether a weight is dense or packed is decided by the file, here,
//! so that no model has a quantized twin. Shapes are checked when a layer is loaded; after that a graph
//! cannot be built wrongly by a file.

mod attention;
mod decoder;
mod linear;
mod mlp;
mod norm;
mod rope;
mod synthetic;
mod weights;

pub(crate) use attention::{Heads, Step};
pub(crate) use decoder::{Decoder, SelfAttention};
pub(crate) use linear::{Linear, Linears};
pub(crate) use mlp::activation;
pub(crate) use norm::RmsNorm;
pub(crate) use rope::Rope;
pub(crate) use synthetic::Synthetic;
pub use synthetic::fill_stages;
pub use weights::{Progress, Report};
pub(crate) use weights::{Source, Weights, proceed};
