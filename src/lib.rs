//! unimlx: MLX for every GPU.

mod array;
mod dtype;
mod error;
#[allow(dead_code, unreachable_pub, reason = "the floors above are still being built")]
mod gpu;
mod layout;
#[allow(dead_code, unreachable_pub, reason = "the floors above are still being built")]
mod wgsl;

pub use array::{Device, MLXArray};
pub use dtype::Dtype;
pub use error::{Error, Result};
pub use gpu::{Caps, Tier};
pub use layout::ArrayShape;
pub use memory::MemoryPool;
pub use op::{Arg, Case, CpuKernel, Fill, HostMut, HostRef, Kernel, Op, Site, Spec, Stage, Word};
pub use plan::{eval, set_fusion};
pub use wgsl::File;
