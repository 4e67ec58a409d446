//! What comes from disk: weights, configuration, tokenizer, chat template.
//!
//! A model folder is a handful of files. [`files`] reads them from a folder or from memory,
//! [`safetensors`] maps weights without copying them, [`config`] checks what the numbers claim, and
//! [`checkpoint`] ties them together: a named tensor in, bytes and a shape out. [`quantized`] knows the
//! packed formats; [`mlx_model`] inflates a whole checkpoint to `ndarray` matrices for people who want
//! to look at weights. [`tokenizer`] and [`chat_template`] turn conversations into token ids and back.
//!
//! Nothing here panics on a bad file: every error names the file and the tensor or field at fault.

mod chat_template;
mod checkpoint;
mod config;
mod files;
mod generation_config;
mod json;
mod mlx_model;
mod python;
pub(crate) mod quantized;
mod rope_config;
pub(crate) mod safetensors;
mod token_bytes;
mod tokenizer;

pub use chat_template::{Chat, ChatTemplate};
pub use checkpoint::Checkpoint;
pub use config::{LayerType, ModelConfig};
pub use generation_config::GenerationConfig;
pub use mlx_model::{MlxLayer, MlxModel, load_mlx_model};
pub use quantized::{Quantization, QuantizationMode};
pub use rope_config::{Rope, RopeScaling};
pub use safetensors::TensorView;
pub use token_bytes::TokenBytes;
pub use tokenizer::{TokenStream, Tokenizer};
