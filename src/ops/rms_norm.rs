//! `y = x / sqrt(mean(x^2) + eps) * w` along the last axis.

use super::native;
use crate::array::MLXArray;
use crate::dtype::Dtype;
use crate::op::{Case, CpuKernel, Fill, Op, Spec, Word};
use std::sync::Arc;

/// `[x [.., n] f32, w [n]] -> [.., n]`
#[derive(Clone, Debug)]
pub struct RmsNorm {
    /// Added to the mean square.
    pub eps: f32,
}

impl Op for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn words(&self) -> Vec<Word> {
        vec![self.eps.into()]
    }

    fn meaning(&self, inputs: &[MLXArray]) -> MLXArray {
        let (x, w) = (&inputs[0], &inputs[1]);
        let last = x.dims().len() - 1;
        assert_eq!(w.dims(), &x.dims()[last..], "rms_norm of {} by {}", x.spec(), w.spec());
        let rms = (x.square().mean(last) + self.eps).rsqrt();
        &(x * &rms) * w
    }

    fn cpu(&self, specs: &[Spec]) -> Option<CpuKernel> {
        native::rms_norm(self, specs)
    }
}

/// Sizes worth testing.
pub(super) fn cases() -> Vec<Case> {
    let case = |dims: &[usize], dtype| {
        let n = dims[dims.len() - 1];
        Case {
            op: Arc::new(RmsNorm { eps: 1e-5 }),
            inputs: vec![Fill::Normal(Spec::new(dims, Dtype::F32)), Fill::Normal(Spec::new(&[n], dtype))],
            reduction: n,
        }
    };
    vec![
        case(&[1, 1024], Dtype::F32),
        case(&[7, 300], Dtype::F16),
        case(&[5, 4, 128], Dtype::BF16),
        case(&[3, 1], Dtype::F32),
        case(&[2, 77], Dtype::BF16),
    ]
}
