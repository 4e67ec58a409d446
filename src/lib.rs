//! unimlx: MLX for every GPU.
#![allow(dead_code, unused_imports, reason = "the floors above are still being built")]

mod array;
mod cpu;
mod dtype;
mod error;
mod formula;
mod gpu;
mod io;
mod layout;
pub mod memory;
mod op;
mod plan;
mod prim;
mod reference;
mod wgsl;

pub use array::{Device, MLXArray};
pub use dtype::Dtype;
pub use error::{Error, Result};
pub use gpu::{Caps, Tier};
pub use io::{
    Chat, ChatTemplate, Checkpoint, GenerationConfig, LayerType, MlxLayer, MlxModel, ModelConfig,
    Quantization, QuantizationMode, Rope, RopeScaling, TensorView, TokenStream, Tokenizer, load_mlx_model,
};
pub use layout::ArrayShape;
pub use memory::MemoryPool;
pub use op::{Arg, Case, CpuKernel, Fill, HostMut, HostRef, Kernel, Op, Site, Spec, Stage, Word};
pub use plan::{eval, set_fusion};
pub use wgsl::File;
