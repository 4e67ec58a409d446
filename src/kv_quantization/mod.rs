//! What a model remembers: keys and values of every token so far.
//!
//! One matrix `[capacity, kv_heads * head_dim]` per layer for keys and one for values, token after token,
//! so that a token's row is one contiguous write. A cache grows in steps; growing replaces the buffers, and
//! [`KvCache::generation`] tells programs that were bound to the old ones.

mod cache;

pub use cache::{KvCache, KvKind};
