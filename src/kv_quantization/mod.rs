//! What a model remembers: keys and values of every token so far.
//!
//! [`KvKind`] names what a value takes: floats, or codes of 8 to 3 bits with a scale for 64 neighbours. Packed heads
//! are centred, balanced and rotated first, so that no value stands out, in a basis that changes no result.
//!
//! One matrix `[pages * 128, kv_heads * head_dim]` per layer for keys and one for values, so that a token's row is
//! one contiguous write. Sequences take pages of 128 tokens as they grow and give them back; a table, which kernels
//! follow, says which sequence has which pages. Sequences that begin alike share pages; layers with a sliding window
//! give back what falls out of it. When pages are added the buffers are replaced, and [`KvCache::generation`] tells
//! programs that were bound to the old ones.

mod baseline;
mod basis;
mod cache;
mod content;
mod group;
mod kind;
mod pages;
#[cfg(test)]
mod regimes_tests;
mod saved;
mod sharing;

pub use baseline::Baseline;
pub(crate) use basis::{Sample, Turning};
pub use cache::KvCache;
pub(crate) use group::window_pages;
pub use kind::KvKind;
