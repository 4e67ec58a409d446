//! `exp(x - max) / sum(exp(x - max))` along the last axis.

use super::kernel::{must_be, spread, with_sums};
use crate::array::MLXArray;
use crate::cpu;
use crate::dtype::Dtype;
use crate::op::{Arg, Case, CpuKernel, Fill, Kernel, Op, Site, Spec, Stage, Word};
use crate::wgsl::{File, wgsl};
use std::sync::Arc;

static SOFTMAX: File = wgsl!("softmax.wgsl");

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
        let x = &inputs[0];
        must_be(Dtype::F32, "softmax", &[x]);
        assert!(!x.dims().is_empty(), "softmax of a scalar");
        x.softmax(x.dims().len() - 1)
    }

    fn kernels(&self, site: &Site<'_>) -> Vec<Kernel> {
        let n = site.output.axis(1);
        let rows = site.output.size() / n.max(1);
        let (grid, stride) = spread(rows);
        let kernel = |sums| Stage {
            name: "softmax",
            files: vec![&SOFTMAX, sums],
            reads: vec![Arg::Input(0)],
            writes: vec![Arg::Output],
            params: vec![("rows", rows.into()), ("n", n.into()), ("stride", stride)],
            grid,
            ..Stage::default()
        };
        with_sums(site.caps, |sums| kernel(sums).into())
    }

    fn cpu(&self, inputs: &[Spec]) -> Option<CpuKernel> {
        let n = inputs[0].axis(1);
        Some(Box::new(move |x, mut y| cpu::softmax(x[0].as_slice(), n, y.as_mut_slice())))
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
