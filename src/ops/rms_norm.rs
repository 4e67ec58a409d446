//! `y = x / sqrt(mean(x^2) + eps) * w` along the last axis.

use super::kernel::{FLOATS, PACK, kind, must_be, spread, with_sums};
use super::weight::floats;
use crate::array::MLXArray;
use crate::cpu;
use crate::dtype::Dtype;
use crate::op::{Arg, Case, CpuKernel, Fill, Kernel, Op, Site, Spec, Stage, Word};
use crate::wgsl::{File, wgsl};
use std::sync::Arc;

static RMS_NORM: File = wgsl!("rms_norm.wgsl");

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
        must_be(Dtype::F32, "rms_norm", &[x]);
        let fits = w.dtype().is_float() && w.dims().len() == 1 && x.dims().last() == w.dims().first();
        assert!(fits, "rms_norm of {} by {}", x.spec(), w.spec());
        let last = x.dims().len() - 1;
        let rms = (x.square().mean(last) + self.eps).rsqrt();
        &(x * &rms) * w
    }

    fn kernels(&self, site: &Site<'_>) -> Vec<Kernel> {
        let n = site.output.axis(1);
        let rows = site.output.size() / n.max(1);
        let (grid, stride) = spread(rows);
        let kernel = |sums| Stage {
            name: "rms_norm",
            files: vec![&RMS_NORM, sums, &FLOATS, &PACK],
            constants: vec![("KIND", kind(site.inputs[1].dtype))],
            reads: vec![Arg::Input(0), Arg::Input(1)],
            writes: vec![Arg::Output],
            params: vec![
                ("rows", rows.into()),
                ("n", n.into()),
                ("stride", stride),
                ("eps", self.eps.into()),
            ],
            grid,
            ..Stage::default()
        };
        with_sums(site.caps, |sums| kernel(sums).into())
    }

    fn cpu(&self, inputs: &[Spec]) -> Option<CpuKernel> {
        let (eps, n) = (self.eps, inputs[1].size());
        Some(Box::new(move |x, mut y| {
            cpu::rms_norm(x[0].as_slice(), floats(&x[1]), eps, n, y.as_mut_slice());
        }))
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
