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
mod memory;
mod op;
pub mod ops;
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

/// What the crate's own integration tests need and users do not.
#[doc(hidden)]
pub mod internals {
    pub use crate::gpu::{Bind, Buffer, Dispatch, Gpu, Recording, Step};
    pub use crate::wgsl::{Source, link};

    /// The packed elements of an array by the reference interpreter.
    ///
    /// # Errors
    /// A buffer that cannot be read back.
    pub fn reference(array: &crate::MLXArray) -> crate::Result<Vec<u8>> {
        let mut bytes = vec![0; array.nbytes()];
        crate::reference::eval(array)?.to_bytes(array.dtype(), &mut bytes);
        Ok(bytes)
    }
}
