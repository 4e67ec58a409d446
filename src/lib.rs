//! unimlx: MLX for every GPU.

mod dtype;
mod error;
mod io;
mod layout;

pub use dtype::Dtype;
pub use error::{Error, Result};
pub use io::{
    Checkpoint, GenerationConfig, LayerType, ModelConfig, Quantization, QuantizationMode, Rope, RopeScaling,
    TensorView,
};
pub use layout::ArrayShape;
