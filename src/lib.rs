//! unimlx: MLX for every GPU.

mod dtype;
mod error;
mod layout;

pub use dtype::Dtype;
pub use error::{Error, Result};
pub use layout::ArrayShape;
