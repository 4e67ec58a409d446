//! Index of the greatest element of each row, the first of equals.

use super::native;
use crate::array::MLXArray;
use crate::dtype::Dtype;
use crate::op::{Case, CpuKernel, Fill, Op, Spec, Word};
use std::sync::Arc;

/// `[x [r, n] f32] -> [r] u32`
#[derive(Clone, Debug)]
pub struct Argmax;

impl Op for Argmax {
    fn name(&self) -> &'static str {
        "argmax"
    }

    fn words(&self) -> Vec<Word> {
        Vec::new()
    }

    fn meaning(&self, inputs: &[MLXArray]) -> MLXArray {
        assert_eq!(inputs[0].dims().len(), 2, "argmax of {}", inputs[0].spec());
        inputs[0].argmax()
    }

    fn cpu(&self, specs: &[Spec]) -> Option<CpuKernel> {
        native::argmax(specs)
    }
}

/// Sizes worth testing.
pub(super) fn cases() -> Vec<Case> {
    let case = |r: usize, n: usize| Case {
        op: Arc::new(Argmax),
        inputs: vec![Fill::Normal(Spec::new(&[r, n], Dtype::F32))],
        reduction: 1,
    };
    vec![case(1, 5003), case(3, 256), case(2, 7), case(1, 1)]
}
