//! unimlx: MLX for every GPU.
#![allow(dead_code, unused_imports, reason = "the floors above are still being built")]

mod array;
mod cpu;
mod dtype;
mod error;
mod formula;
mod generate;
mod gpu;
mod io;
mod kv_quantization;
mod layout;
pub mod memory;
mod models;
mod nn;
mod op;
pub mod ops;
mod plan;
mod prim;
mod reference;
mod wgsl;

pub use array::{Device, MLXArray};
pub use dtype::Dtype;
pub use error::{Error, Result};
pub use generate::{FinishReason, GenerateOptions, Generator, Stats, TextStream, logits};
pub use gpu::{Caps, Tier};
pub use io::{
    Chat, ChatTemplate, Checkpoint, GenerationConfig, LayerType, MlxLayer, MlxModel, ModelConfig,
    Quantization, QuantizationMode, Rope, RopeScaling, TensorView, TokenStream, Tokenizer, load_mlx_model,
};
pub use kv_quantization::{KvCache, KvKind};
pub use layout::ArrayShape;
pub use memory::MemoryPool;
pub use models::{LoadOptions, Model, model_types};
pub use nn::Progress;
pub use op::{Arg, Case, CpuKernel, Fill, HostMut, HostRef, Kernel, Op, Site, Spec, Stage, Word};
pub use plan::{eval, set_fusion};
pub use wgsl::File;
