//! Native kernels: pure functions over slices, for machines without a GPU.
//!
//! Activations are `f32`; weights and caches stay as stored and are widened in registers. Kernels are
//! written once over a small vector vocabulary (`simd`) and compiled per instruction set, chosen at run
//! time; work is split over a `team` of threads (`threads`), which keep their scratch memory, so
//! that a token costs no allocation. Lengths are the caller's contract, checked in debug builds.
//!
//! `matmul` is where the time goes: few rows by `tile`, many by `panel` over `tile`, or by `amx_panel` over
//! `amx` where there are matrix tiles. `attention`, `rope`, `packed` and `math` are the rest of a layer;
//! `pages` says where in a cache the rows of sequences lie.

#![allow(clippy::needless_range_loop, reason = "an index keeps the lanes of several arrays together")]

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod amx_panel;
mod attention;
mod floats;
mod math;
mod matmul;
mod packed;
mod pages;
mod panel;
mod rope;
mod simd;
#[cfg(test)]
mod speed;
mod team;
#[cfg(test)]
mod tests;
mod threads;
mod tile;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use attention::{attention, attention_packed};
pub(crate) use floats::{Floats, FloatsMut};
pub(crate) use math::{Binary, Gate, argmax, binary, gate, rms_norm, softmax};
pub(crate) use matmul::{Weight, embedding, matmul};
pub use packed::Packing;
pub(crate) use packed::{
    BASIS_ROWS, BLOCK as PACKED_BLOCK, Basis, BasisRow, kv_pack, norm as rotation_norm, rotate, rotation_sign,
};
pub(crate) use pages::{PAGE, Place};
pub(crate) use rope::{kv_write, rope};
pub use team::{set_threads, threads};

/// The instruction set in use: `avx512+amx`, `avx512`, `avx2`, `neon` or `portable`.
pub fn simd_name() -> &'static str {
    simd::Level::best().name()
}
