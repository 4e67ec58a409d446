//! `exp(x - max) / sum(exp(x - max))` along the last axis.

use super::native;
use crate::array::MLXArray;
use crate::dtype::Dtype;
use crate::op::{Case, CpuKernel, Fill, Op, Spec, Word};
use std::sync::Arc;

/// `[x [.., n] f32] -> [.., n]`
#[derive(Clone, Debug)]
pub struct Softmax;

impl Op for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn words(&self) -> Vec<Word> {
        Vec::new()
    }

    fn meaning(&self, inputs: &[MLXArray]) -> MLXArray {
        inputs[0].softmax(inputs[0].dims().len() - 1)
    }

    fn cpu(&self, specs: &[Spec]) -> Option<CpuKernel> {
        native::softmax(specs)
    }
}

/// Sizes worth testing.
pub(super) fn cases() -> Vec<Case> {
    let case = |dims: &[usize]| Case {
        op: Arc::new(Softmax),
        inputs: vec![Fill::Normal(Spec::new(dims, Dtype::F32))],
        reduction: dims[dims.len() - 1],
    };
    vec![case(&[1, 1000]), case(&[5, 37]), case(&[2, 3, 256]), case(&[4, 1])]
}
