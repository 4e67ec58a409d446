//! Index of the greatest element of each row, the first of equals; `u32::MAX` for a row without a number.

use super::kernel::{declare, must_be, spread};
use crate::array::MLXArray;
use crate::cpu;
use crate::dtype::Dtype;
use crate::gpu::Caps;
use crate::op::{Arg, Case, CpuKernel, Fill, Kernel, Op, Site, Spec, Stage, Word};
use crate::wgsl::{File, wgsl};
use std::sync::Arc;

static ARGMAX: File = wgsl!("argmax.wgsl");
pub(super) static LIKELIEST: File = wgsl!("parts/likeliest.wgsl");
static LOGITS_ALIGNED: File = wgsl!("parts/logits_aligned.wgsl");
static LOGITS_ODD: File = wgsl!("parts/logits_odd.wgsl");

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
        must_be(Dtype::F32, "argmax", &[&inputs[0]]);
        assert_eq!(inputs[0].dims().len(), 2, "argmax of {}", inputs[0].spec());
        inputs[0].argmax()
    }

    fn kernels(&self, site: &Site<'_>) -> Vec<Kernel> {
        // Rows of nothing are for the meaning.
        if site.inputs[0].axis(1) == 0 {
            return Vec::new();
        }
        vec![stage(&site.inputs[0], site.caps).into()]
    }

    fn cpu(&self, inputs: &[Spec]) -> Option<CpuKernel> {
        let n = inputs[0].axis(1);
        if n == 0 {
            return None;
        }
        Some(Box::new(move |x, mut y| {
            let rows = x[0].as_slice::<f32>().chunks_exact(n);
            y.as_mut_slice().iter_mut().zip(rows).for_each(|(y, row)| *y = cpu::argmax(row));
        }))
    }
}

/// Invocations that share a row: one workgroup reads all of it, the larger one where the adapter allows it. Its
/// memory is for the filters of a draw.
pub(super) fn lanes(caps: &Caps) -> usize {
    if caps.workgroup_size >= 1024 && caps.workgroup_memory >= 32 << 10 { 1024 } else { 256 }
}

/// How rows of logits are read four at a time: the part, and the type of the binding.
pub(super) fn logits4(x: &Spec) -> (&'static File, &'static str) {
    if x.axis(1).is_multiple_of(4) {
        (&LOGITS_ALIGNED, "array<vec4<f32>>")
    } else {
        (&LOGITS_ODD, "array<f32>")
    }
}

/// The kernel; sampling without temperature is the same.
pub(super) fn stage(x: &Spec, caps: &Caps) -> Stage {
    let (grid, stride) = spread(x.axis(2));
    let (file, kind) = logits4(x);
    let mut stage = Stage {
        name: "argmax",
        files: vec![&ARGMAX, &LIKELIEST, file],
        constants: vec![("WG", lanes(caps) as f64)],
        reads: vec![Arg::Input(0)],
        writes: vec![Arg::Output],
        params: vec![("rows", x.axis(2).into()), ("n", x.axis(1).into()), ("stride", stride)],
        grid,
        ..Stage::default()
    };
    stage.generated = declare(&stage, &[("logits", kind)], &[("y", "array<u32>")]);
    stage
}

/// Sizes worth testing.
pub(super) fn cases() -> Vec<Case> {
    let case = |r: usize, n: usize| Case {
        op: Arc::new(Argmax),
        inputs: vec![Fill::Normal(Spec::new(&[r, n], Dtype::F32))],
        reduction: 1,
    };
    // The greatest value several times: once per workgroup pass, and in neighbouring invocations.
    let mut tied = vec![0.5; 700];
    [13, 14, 269, 300, 555].iter().for_each(|&i| tied[i] = 2.0);
    let ties = Case { op: Arc::new(Argmax), inputs: vec![Fill::F32(vec![1, 700], tied)], reduction: 1 };
    vec![ties, case(1, 5003), case(2, 5004), case(3, 256), case(2, 7), case(1, 1)]
}
