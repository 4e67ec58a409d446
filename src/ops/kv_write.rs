//! Rows of new keys or values go into a cache, in place.

use super::native;
use crate::array::MLXArray;
use crate::dtype::Dtype;
use crate::op::{Case, CpuKernel, Fill, Op, Spec, Word};
use std::sync::Arc;

/// `[cache [cap, w] f32, f16 or bf16, rows [t, w] f32, positions [t] u32] -> cache` with row
/// `positions[i]` replaced by `rows[i]`; a position past the end is skipped.
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
        inputs[0].put(&inputs[1], &inputs[2])
    }

    fn in_place(&self) -> Option<usize> {
        Some(0)
    }

    fn cpu(&self, specs: &[Spec]) -> Option<CpuKernel> {
        native::kv_write(self, specs)
    }
}

/// Sizes worth testing.
pub(super) fn cases() -> Vec<Case> {
    let case = |cap: usize, w: usize, positions: &[u32], dtype: Dtype| Case {
        op: Arc::new(KvWrite),
        inputs: vec![
            Fill::Normal(Spec::new(&[cap, w], dtype)),
            Fill::Normal(Spec::new(&[positions.len(), w], Dtype::F32)),
            Fill::U32(vec![positions.len()], positions.to_vec()),
        ],
        reduction: 1,
    };
    let mut cases = Vec::new();
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        cases.push(case(9, 128, &[4], dtype));
        cases.push(case(20, 66, &[3, 4, 5, 19, 20, 0], dtype));
    }
    // Rows of an odd number of 16-bit values share words with their neighbours.
    cases.push(case(7, 5, &[2, 3, 6], Dtype::F16));
    cases
}
