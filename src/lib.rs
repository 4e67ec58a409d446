//! unimlx: MLX for every GPU.

mod dtype;
mod error;
#[allow(dead_code, unreachable_pub, reason = "the floors above are still being built")]
mod gpu;
mod layout;
#[allow(dead_code, unreachable_pub, reason = "the floors above are still being built")]
mod wgsl;

pub use dtype::Dtype;
pub use error::{Error, Result};
pub use layout::ArrayShape;
