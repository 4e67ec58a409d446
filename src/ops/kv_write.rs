//! Rows of new keys or values go into a cache, in place.

use super::kernel::{PACK, kind, places, spread};
use crate::array::MLXArray;
use crate::cpu::{self, FloatsMut};
use crate::dtype::Dtype;
use crate::op::{Arg, Case, CpuKernel, Fill, Kernel, Op, Site, Spec, Stage, Word};
use crate::wgsl::{File, wgsl};
use std::sync::Arc;

static KV_WRITE: File = wgsl!("kv_write.wgsl");
static KV_WRITE_ODD: File = wgsl!("kv_write_odd.wgsl");

/// `[cache [cap, w] f32, f16 or bf16, rows [t, w] f32, places [t, 2] u32] -> cache` with row
/// `places[i, 0] + places[i, 1]` replaced by `rows[i]`; a row past the end is skipped. [`Attention`](super::Attention)
/// says what places are.
#[derive(Clone, Debug)]
pub struct KvWrite;

impl Op for KvWrite {
    fn name(&self) -> &'static str {
        "kv_write"
    }

    fn words(&self) -> Vec<Word> {
        Vec::new()
    }

    fn meaning(&self, inputs: &[MLXArray]) -> MLXArray {
        let (cache, rows, places) = (&inputs[0], &inputs[1], &inputs[2]);
        let row = &places.slice(1, 0, 1) + &places.slice(1, 1, 1);
        cache.put(rows, &row.reshape(&[rows.dims()[0]]))
    }

    fn kernels(&self, site: &Site<'_>) -> Vec<Kernel> {
        let (cache, tokens) = (site.output, site.inputs[2].dims[0]);
        let (capacity, width) = (cache.axis(2), cache.axis(1));
        let odd = cache.dtype.size() == 2 && width % 2 == 1;
        let words = if odd { width } else { width * cache.dtype.size() / 4 };
        let (grid, stride) = spread((tokens * words).div_ceil(256));
        let mut params = vec![("tokens", tokens.into()), ("width", width.into())];
        if !odd {
            params.push(("words", words.into()));
        }
        params.extend([("capacity", capacity.into()), ("stride", stride)]);
        let stage = Stage {
            name: "kv_write",
            files: vec![if odd { &KV_WRITE_ODD } else { &KV_WRITE }, &PACK],
            constants: vec![("KIND", kind(cache.dtype))],
            reads: vec![Arg::Input(1), Arg::Input(2)],
            writes: vec![Arg::Output],
            params,
            grid,
            ..Stage::default()
        };
        vec![stage.into()]
    }

    fn cpu(&self, inputs: &[Spec]) -> Option<CpuKernel> {
        let width = inputs[0].axis(1);
        Some(Box::new(move |x, mut cache| {
            let (rows, places) = (x[0].as_slice(), places(&x[1]));
            let cache = match cache.spec.dtype {
                Dtype::F16 => FloatsMut::F16(cache.as_mut_slice()),
                Dtype::BF16 => FloatsMut::BF16(cache.as_mut_slice()),
                _ => FloatsMut::F32(cache.as_mut_slice()),
            };
            cpu::kv_write(cache, rows, places, width);
        }))
    }

    fn in_place(&self) -> Option<usize> {
        Some(0)
    }
}

/// Sizes worth testing.
pub(super) fn cases() -> Vec<Case> {
    let case = |cap: usize, w: usize, rows: &[u32], dtype: Dtype| Case {
        op: Arc::new(KvWrite),
        inputs: vec![
            Fill::Normal(Spec::new(&[cap, w], dtype)),
            Fill::Normal(Spec::new(&[rows.len(), w], Dtype::F32)),
            // Sequences begin anywhere.
            Fill::U32(vec![rows.len(), 2], rows.iter().flat_map(|&row| [row - row / 2, row / 2]).collect()),
        ],
        reduction: 1,
    };
    let mut cases = Vec::new();
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        cases.push(case(9, 128, &[4], dtype));
        cases.push(case(20, 66, &[3, 4, 5, 19, 20, 0], dtype));
    }
    // Rows of an odd number of 16-bit values share words with their neighbours.
    cases.push(case(7, 5, &[1, 3, 6], Dtype::F16));
    cases
}
