//! Rows of new keys or values go into a cache, in place.

use super::kernel::{PACK, kind, places, spread};
use super::pages::{PAGES, rows_at};
use crate::array::MLXArray;
use crate::cpu::{self, FloatsMut, PAGE};
use crate::dtype::Dtype;
use crate::op::{Arg, Case, CpuKernel, Fill, Kernel, Op, Site, Spec, Stage, Word};
use crate::wgsl::{File, wgsl};
use std::sync::Arc;

static KV_WRITE: File = wgsl!("kv_write.wgsl");
static KV_WRITE_ODD: File = wgsl!("kv_write_odd.wgsl");

/// `[cache [cap, w] f32, f16 or bf16, rows [t, w] f32, places [t, 2] u32, table [pages] u32] -> cache` with logical row
/// `places[i, 0] + places[i, 1]` replaced by `rows[i]`; a row past the end is skipped. [`Attention`](super::Attention)
/// says what places and tables are.
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
        cache.put(rows, &rows_at(places, &inputs[3]))
    }

    fn kernels(&self, site: &Site<'_>) -> Vec<Kernel> {
        let (cache, tokens) = (site.output, site.inputs[2].dims[0]);
        let (pages, capacity, width) = (site.inputs[3].size(), cache.axis(2), cache.axis(1));
        let odd = cache.dtype.size() == 2 && width % 2 == 1;
        let words = if odd { width } else { width * cache.dtype.size() / 4 };
        let (grid, stride) = spread((tokens * words).div_ceil(256));
        let mut params = vec![("tokens", tokens.into()), ("width", width.into())];
        if !odd {
            params.push(("words", words.into()));
        }
        params.extend([
            ("logical", (pages * PAGE).into()),
            ("capacity", capacity.into()),
            ("stride", stride),
        ]);
        let stage = Stage {
            name: "kv_write",
            files: vec![if odd { &KV_WRITE_ODD } else { &KV_WRITE }, &PAGES, &PACK],
            constants: vec![("KIND", kind(cache.dtype))],
            reads: (1..4).map(Arg::Input).collect(),
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
            let (rows, places, table) = (x[0].as_slice(), places(&x[1]), x[2].as_slice());
            let cache = match cache.spec.dtype {
                Dtype::F16 => FloatsMut::F16(cache.as_mut_slice()),
                Dtype::BF16 => FloatsMut::BF16(cache.as_mut_slice()),
                _ => FloatsMut::F32(cache.as_mut_slice()),
            };
            cpu::kv_write(cache, rows, places, table, width);
        }))
    }

    fn in_place(&self) -> Option<usize> {
        Some(0)
    }
}

/// Sizes worth testing.
pub(super) fn cases() -> Vec<Case> {
    let case = |table: &[u32], w: usize, rows: &[u32], dtype: Dtype| Case {
        op: Arc::new(KvWrite),
        inputs: vec![
            Fill::Normal(Spec::new(&[2 * PAGE, w], dtype)),
            Fill::Normal(Spec::new(&[rows.len(), w], Dtype::F32)),
            Fill::U32(
                vec![rows.len(), 2],
                rows.iter().flat_map(|&row| [row % 128, row - row % 128]).collect(),
            ),
            Fill::U32(vec![table.len()], table.to_vec()),
        ],
        reduction: 1,
    };
    let mut cases = Vec::new();
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        cases.push(case(&[1], 128, &[4], dtype));
        // One page is past the cache, one row past the table.
        cases.push(case(&[1, 2, 0], 66, &[3, 127, 5, 128, 256, 383, 384, 0], dtype));
    }
    // Rows of an odd number of 16-bit values share words with their neighbours.
    cases.push(case(&[1, 0], 5, &[1, 3, 6, 255], Dtype::F16));
    cases
}
