//! What a model remembers: keys and values of every token so far.
//!
//! [`KvKind`] names what a value takes: floats, or codes of 8 to 3 bits with a scale for 64 neighbours. Packed heads
//! are rotated first, so that no value stands out; keys are centred, which no softmax sees.
//!
//! One matrix `[capacity, kv_heads * head_dim]` per layer for keys and one for values, token after token,
//! so that a token's row is one contiguous write. A cache grows in steps; growing replaces the buffers, and
//! [`KvCache::generation`] tells programs that were bound to the old ones.

mod baseline;
mod cache;
mod kind;

pub use baseline::Baseline;
pub use cache::KvCache;
pub use kind::KvKind;
