//! What the ops' kernels have in common: grids, kinds of floats, declarations, parts for sums.

use crate::array::MLXArray;
use crate::cpu::Place;
use crate::dtype::Dtype;
use crate::gpu::Caps;
use crate::op::{self, GRID, HostRef, Kernel, Stage, Word};
use crate::wgsl::{File, wgsl};
use std::fmt::Write;

pub(super) static NARROW: File = wgsl!("parts/narrow.wgsl");
pub(super) static PACK: File = wgsl!("parts/pack.wgsl");
pub(super) static FLOATS: File = wgsl!("parts/floats.wgsl");
pub(super) static ERF: File = wgsl!("parts/erf.wgsl");
pub(super) static ACT: File = wgsl!("parts/act.wgsl");
pub(super) static SUM_SHARED: File = wgsl!("parts/sum_shared.wgsl");
pub(super) static SUM_SUBGROUP: File = wgsl!("parts/sum_subgroup.wgsl");

/// [`op::spread`], with the stride as a parameter.
pub(super) fn spread(groups: usize) -> ([u32; 3], Word) {
    let (grid, columns) = op::spread(groups);
    (grid, columns.into())
}

/// Refuses operands that kernels would read as something else.
pub(super) fn must_be(dtype: Dtype, op: &str, operands: &[&MLXArray]) {
    for x in operands {
        assert_eq!(x.dtype(), dtype, "{op} of {}", x.spec());
    }
}

/// Whether a grid of these sizes can be dispatched as it is.
pub(super) fn fits(grid: [usize; 3]) -> bool {
    grid.iter().all(|&groups| (1..=GRID).contains(&groups))
}

/// The number by which shaders know a float type (see `parts/floats.wgsl`).
pub(super) fn kind(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F16 => 1.0,
        Dtype::BF16 => 2.0,
        _ => 0.0,
    }
}

/// Places `[t, 2]` as the native kernels take them.
pub(super) fn places<'a>(x: &HostRef<'a>) -> &'a [Place] {
    bytemuck::cast_slice(x.as_slice::<u32>())
}

/// The fastest way of summing over a workgroup.
pub(super) fn sums(caps: &Caps) -> &'static File {
    if caps.subgroups.is_some() { &SUM_SUBGROUP } else { &SUM_SHARED }
}

/// One kernel per way of summing over a workgroup, the fastest first.
pub(super) fn with_sums(caps: &Caps, kernel: impl Fn(&'static File) -> Kernel) -> Vec<Kernel> {
    let subgroup = caps.subgroups.is_some().then_some(&SUM_SUBGROUP);
    subgroup.into_iter().chain([&SUM_SHARED]).map(kernel).collect()
}

/// Prints the bindings of a stage (name and type of each read, then each write) and its `Params`: for
/// kernels whose bindings differ with the formats of their inputs.
pub(super) fn declare(stage: &Stage, reads: &[(&str, &str)], writes: &[(&str, &str)]) -> String {
    let mut text = String::from("struct Params { ");
    for (name, word) in &stage.params {
        let kind = match word {
            Word::U32(_) => "u32",
            Word::F32(_) => "f32",
        };
        let _ = write!(text, "{name}: {kind}, ");
    }
    text.push_str("}\n");
    let all = reads.iter().map(|b| ("read", b)).chain(writes.iter().map(|b| ("read_write", b)));
    for (at, (access, (name, kind))) in all.enumerate() {
        let _ = writeln!(text, "@group(0) @binding({at}) var<storage, {access}> {name}: {kind};");
    }
    if !stage.baked {
        let at = reads.len() + writes.len();
        let _ = writeln!(text, "@group(0) @binding({at}) var<uniform> params: Params;");
    }
    text
}
