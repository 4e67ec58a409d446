//! unimlx: MLX for every GPU.

mod dtype;
mod error;
#[allow(dead_code, unreachable_pub, unused_imports, reason = "the floors above are still being built")]
mod gpu;
mod layout;
#[allow(dead_code, unused_macros, unused_imports, unreachable_pub, reason = "kernels are to come")]
mod wgsl;

pub use dtype::Dtype;
pub use error::{Error, Result};
pub use layout::ArrayShape;
