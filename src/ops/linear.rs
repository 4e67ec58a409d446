//! `y = x W^T + b` with the weight as the file stores it.

use super::native;
use super::weight::Format;
use crate::array::MLXArray;
use crate::dtype::Dtype;
use crate::op::{Case, CpuKernel, Fill, Op, Spec, Word};
use std::sync::Arc;

/// `[x [m, k] f32, weight.. (see `[`Format`]`), bias [n] if any] -> [m, n]`
#[derive(Clone, Debug)]
pub struct Linear {
    /// How the weight is stored.
    pub format: Format,
    /// Whether a bias is added.
    pub bias: bool,
}

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn words(&self) -> Vec<Word> {
        let mut words = self.format.words();
        words.push(Word::U32(self.bias.into()));
        words
    }

    fn meaning(&self, inputs: &[MLXArray]) -> MLXArray {
        let weights = self.format.inputs();
        assert_eq!(inputs.len(), 1 + weights + usize::from(self.bias), "inputs of {self:?}");
        let y = inputs[0].matmul(&self.format.rows(&inputs[1..=weights]).t());
        if self.bias { &y + &inputs[1 + weights] } else { y }
    }

    fn cpu(&self, specs: &[Spec]) -> Option<CpuKernel> {
        native::linear(self, specs)
    }
}

/// Sizes worth testing.
pub(super) fn cases() -> Vec<Case> {
    let case = |format: Format, dtype: Dtype, [m, n, k]: [usize; 3], bias: bool| {
        let mut inputs = vec![Fill::Normal(Spec::new(&[m, k], Dtype::F32))];
        inputs.extend(format.fills(n, k, dtype));
        if bias {
            inputs.push(Fill::Normal(Spec::new(&[n], dtype)));
        }
        Case { op: Arc::new(Linear { format, bias }), inputs, reduction: k }
    };
    let mut cases = Vec::new();
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        for shape in
            [[1, 64, 256], [1, 1, 1], [2, 5, 37], [3, 259, 300], [4, 33, 130], [9, 70, 45], [65, 96, 128]]
        {
            cases.push(case(Format::Dense, dtype, shape, shape[1] % 2 == 1));
        }
    }
    for bits in [2, 3, 4, 5, 6, 8] {
        for (group, dtype) in [(32, Dtype::F32), (64, Dtype::F16), (128, Dtype::BF16)] {
            let format = Format::Affine { bits, group };
            cases.push(case(format, dtype, [1, 67, 2 * group], false));
            cases.push(case(format, dtype, [3, 12, 3 * group], true));
            cases.push(case(format, dtype, [19, 37, group], false));
        }
    }
    cases
}
