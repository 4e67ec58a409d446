//! The operations that language models are made of, one file each.
//!
//! Each file has the op's formula, its kernels, and the cases worth testing; [`ALL`] lists them. Tests and
//! benchmarks walk this table, so an op that is in it is an op that is tested.

// Not ops themselves: `matvec` and `matvec_*` are the kernels of `linear` for few rows, `matmul` and `matmul_tile` those
// for many; `attention_coop` is one of `attention`. `kernel`, `weight`, `packing`, `pages`, `philox` and `raw_heads` are
// what several ops share.
mod argmax;
mod attend;
mod attend_packed;
mod attention;
mod attention_coop;
mod embedding;
mod few_tokens;
mod gate;
mod kernel;
mod kv_pack;
mod kv_write;
mod linear;
mod matmul;
mod matmul_tile;
mod matvec;
mod matvec_one;
mod matvec_rows;
mod matvec_several;
mod next;
mod packed_arrays;
mod packing;
mod pages;
mod philox;
mod raw_heads;
mod rms_norm;
mod rope;
mod sample;
mod softmax;
mod weight;

pub use crate::cpu::Packing;
pub use argmax::Argmax;
pub use attend::Attend;
pub use attend_packed::AttendPacked;
pub(crate) use attend_packed::laid_out;
pub use attention::Attention;
pub use embedding::Embedding;
pub use gate::{Gate, GateKind};
pub use kv_pack::{KvPack, Rotate};
pub use kv_write::KvWrite;
pub(crate) use linear::FEW;
pub use linear::Linear;
pub use next::Next;
pub(crate) use next::{penalise, rows as next_rows};
pub(crate) use philox::uniform;
pub use rms_norm::RmsNorm;
pub use rope::Rope;
pub use sample::{Sample, sample_host};
pub use softmax::Softmax;
pub use weight::Format;

use crate::op::Case;

/// Name and cases of an op.
pub type Row = (&'static str, fn() -> Vec<Case>);

/// Every op of the crate.
pub const ALL: &[Row] = &[
    ("linear", linear::cases),
    ("embedding", embedding::cases),
    ("rms_norm", rms_norm::cases),
    ("rope", rope::cases),
    ("kv_write", kv_write::cases),
    ("kv_pack", kv_pack::cases),
    ("rotate", kv_pack::rotate_cases),
    ("attention", attention::cases),
    ("attend", attend::cases),
    ("attend_packed", attend_packed::cases),
    ("gate", gate::cases),
    ("softmax", softmax::cases),
    ("argmax", argmax::cases),
    ("sample", sample::cases),
    ("next", next::cases),
];
