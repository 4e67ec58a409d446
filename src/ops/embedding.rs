//! Rows of a weight by id.

use super::native;
use super::weight::Format;
use crate::array::MLXArray;
use crate::dtype::Dtype;
use crate::op::{Case, CpuKernel, Fill, Op, Spec, Word};
use std::sync::Arc;

/// `[ids [t] u32, weight.. (see `[`Format`]`)] -> [t, k] f32`; an id past the end gives zeros.
#[derive(Clone, Debug)]
pub struct Embedding {
    /// How the weight is stored.
    pub format: Format,
}

impl Op for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn words(&self) -> Vec<Word> {
        self.format.words()
    }

    fn meaning(&self, inputs: &[MLXArray]) -> MLXArray {
        assert_eq!(inputs.len(), 1 + self.format.inputs(), "inputs of {self:?}");
        assert_eq!(inputs[0].dims().len(), 1, "ids {}", inputs[0].spec());
        let rows: Vec<MLXArray> = inputs[1..].iter().map(|part| part.take(&inputs[0], 0)).collect();
        self.format.rows(&rows)
    }

    fn cpu(&self, specs: &[Spec]) -> Option<CpuKernel> {
        native::embedding(self, specs)
    }
}

/// Sizes worth testing.
pub(super) fn cases() -> Vec<Case> {
    let case = |format: Format, dtype: Dtype, ids: &[u32], n: usize, k: usize| {
        let mut inputs = vec![Fill::U32(vec![ids.len()], ids.to_vec())];
        inputs.extend(format.fills(n, k, dtype));
        Case { op: Arc::new(Embedding { format }), inputs, reduction: 1 }
    };
    let mut cases = Vec::new();
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        cases.push(case(Format::Dense, dtype, &[3], 11, 128));
        cases.push(case(Format::Dense, dtype, &[0, 10, 11, 5, 5, u32::MAX, 1], 11, 37));
    }
    for bits in [2, 3, 4, 5, 6, 8] {
        for (group, dtype) in [(32, Dtype::F32), (64, Dtype::F16), (128, Dtype::BF16)] {
            cases.push(case(Format::Affine { bits, group }, dtype, &[4, 9, 0, 10], 10, 3 * group));
        }
    }
    cases
}
