//! unimlx: MLX for every GPU.

mod dtype;
mod error;
mod io;
mod layout;

pub use dtype::Dtype;
pub use error::{Error, Result};
pub use io::{
    Chat, ChatTemplate, Checkpoint, GenerationConfig, LayerType, MlxLayer, MlxModel, ModelConfig,
    Quantization, QuantizationMode, Rope, RopeScaling, TensorView, TokenStream, Tokenizer, load_mlx_model,
};
pub use layout::ArrayShape;
