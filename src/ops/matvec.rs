//! Kernels of a linear layer for few rows of `x`: what a token costs.

use super::kernel::{ACT, ERF, declare, kind, spread, with_sums};
use super::linear::{Linear, Places};
use super::weight::{Chunk, Format, Reader, UNIT};
use crate::gpu::Caps;
use crate::op::{Arg, Kernel, Site, Stage};
use crate::wgsl::{File, wgsl};

static MATVEC: File = wgsl!("matvec.wgsl");
static MATVEC_DOT4: File = wgsl!("matvec_dot4.wgsl");
static X_ALIGNED: File = wgsl!("parts/x_aligned.wgsl");
static X_ODD: File = wgsl!("parts/x_odd.wgsl");
static DOT8: File = wgsl!("parts/dot8.wgsl");
static BIAS: File = wgsl!("parts/bias.wgsl");
static NO_BIAS: File = wgsl!("parts/no_bias.wgsl");
static RESIDUAL: File = wgsl!("parts/residual.wgsl");
static NO_RESIDUAL: File = wgsl!("parts/no_residual.wgsl");
static GAIN: File = wgsl!("parts/gain.wgsl");
static NO_GAIN: File = wgsl!("parts/no_gain.wgsl");
static EMIT: File = wgsl!("parts/emit.wgsl");

/// The kernels for this site, best first.
pub(super) fn kernels(op: &Linear, site: &Site<'_>) -> Vec<Kernel> {
    let weight = op.weight(site.inputs);
    let Some(reader) = op.format.reader(weight) else { return Vec::new() };
    let chunks = op.format.chunks(weight, op.places().weight, site.caps);
    // The partner of a gate's row would be in another chunk.
    if op.gate.is_some() && chunks.len() > 1 {
        return Vec::new();
    }
    let stages = |stage: &dyn Fn(&Chunk) -> Stage| chunks.iter().map(stage).collect();
    let integers = dot4(op, site).map(|kernel| Kernel {
        stages: stages(&|chunk| kernel.stage(op, site, chunk)),
        rounding: PLANES,
        ..Kernel::default()
    });
    let floats = with_sums(site.caps, |sums| Kernel {
        stages: stages(&|chunk| dense(op, site, &reader, chunk, sums)),
        ..Kernel::default()
    });
    integers.into_iter().chain(floats).collect()
}

/// What kernels of a linear layer share: parts, bindings, parameters. Grid and own constants are added by the
/// callers.
pub(super) fn stage(
    op: &Linear,
    site: &Site<'_>,
    reader: &Reader,
    chunk: &Chunk,
    own: &[&'static File],
    baked: bool,
) -> Stage {
    let Places { gain, bias, residual, .. } = op.places();
    let k = site.inputs[0].axis(1);
    let aligned = k.is_multiple_of(UNIT);

    let mut stage = Stage { name: "linear", files: own.to_vec(), baked, ..Stage::default() };
    stage.files.extend([
        if aligned { &X_ALIGNED } else { &X_ODD },
        if gain.is_some() { &GAIN } else { &NO_GAIN },
        if bias.is_some() { &BIAS } else { &NO_BIAS },
        if residual.is_some() { &RESIDUAL } else { &NO_RESIDUAL },
        &EMIT,
        &ACT,
        &ERF,
    ]);
    stage.files.extend(&reader.files);
    stage.constants = reader.constants.clone();
    stage.constants.push(("ACT", op.gate.map_or(0.0, |kind| f64::from(kind as u32))));
    stage.reads = [vec![Arg::Input(0)], chunk.args.clone()].concat();
    stage.writes = vec![Arg::Output];
    stage.params = vec![
        ("m", site.inputs[0].axis(2).into()),
        ("n", site.output.axis(1).into()),
        ("rows", chunk.rows.into()),
        ("first_row", chunk.first_row.into()),
        ("k", k.into()),
        ("units", k.div_ceil(UNIT).into()),
        ("groups", op.format.groups(op.weight(site.inputs)).into()),
        ("stride", 0u32.into()),
        ("eps", op.norm.unwrap_or(0.0).into()),
    ];
    let mut reads = vec![("x", if aligned { "array<vec4<f32>>" } else { "array<f32>" })];
    reads.extend(&reader.bindings);
    for (input, constant, name, words) in [
        (gain, Some("GAIN"), "gain", "array<u32>"),
        (bias, Some("BIAS"), "bias", "array<u32>"),
        (residual, None, "residual", "array<f32>"),
    ] {
        let Some(input) = input else { continue };
        stage.reads.push(Arg::Input(input));
        stage.constants.extend(constant.map(|constant| (constant, kind(site.inputs[input].dtype))));
        reads.push((name, words));
    }
    stage.generated = declare(&stage, &reads, &[("y", "array<f32>")]);
    stage
}

fn dense(op: &Linear, site: &Site<'_>, reader: &Reader, chunk: &Chunk, sums: &'static File) -> Stage {
    let mut stage = stage(op, site, reader, chunk, &[&MATVEC, &DOT8, sums], true);
    let (rows, lanes) = shape(op.format, site.caps, chunk.rows, site.inputs[0].axis(1).div_ceil(UNIT));
    let (grid, stride) = spread(chunk.rows.div_ceil(rows));
    stage.name = "matvec";
    stage.constants.extend([
        ("M", site.inputs[0].axis(2) as f64),
        ("NORM", f64::from(u8::from(op.norm.is_some()))),
        ("GATED", f64::from(u8::from(op.gate.is_some()))),
        ("R", rows as f64),
        ("WG", lanes as f64),
    ]);
    stage.params[7].1 = stride;
    Stage { grid, ..stage }
}

/// Rows that share a workgroup, and its invocations. A discrete GPU has more of them than a weight with few
/// rows keeps busy: there rows are cut finer, if each still gets two units. Where quantized rows are many,
/// small workgroups lose less at their ends.
fn shape(format: Format, caps: &Caps, rows: usize, units: usize) -> (usize, usize) {
    let enough = rows >= 16384 && format != Format::Dense;
    (4, if caps.unified || enough || units < 256 { 64 } else { 128 })
}

/// What the rounding of two planes of bytes may do to a result: each value is off by at most 2^-16 of the
/// greatest of its 32.
const PLANES: f32 = 1.0 / 8192.0;

/// How integer products are arranged.
struct Dot4 {
    reader: Reader,
    /// Invocations of a workgroup.
    lanes: usize,
    /// Rows that a subgroup takes at a time.
    rows: usize,
    /// The most workgroups.
    groups: usize,
}

/// Integer products, where the adapter has them, one row of `x` fits into workgroup memory as planes, and
/// codes are bytes or halves of them.
fn dot4(op: &Linear, site: &Site<'_>) -> Option<Dot4> {
    let (weight, x) = (op.weight(site.inputs), &site.inputs[0]);
    let reader = op.format.bytes(weight)?;
    let k = x.axis(1);
    let memory = 2 * k + 8 * k.div_ceil(32) + 512;
    let (least, _) = site.caps.subgroups?;
    let fits =
        site.caps.dot4 && least >= 4 && x.axis(2) == 1 && memory <= site.caps.workgroup_memory as usize;
    fits.then_some(Dot4 { reader, lanes: 512.min(site.caps.workgroup_size as usize), rows: 4, groups: 264 })
}

impl Dot4 {
    fn stage(&self, op: &Linear, site: &Site<'_>, chunk: &Chunk) -> Stage {
        let mut stage = stage(op, site, &self.reader, chunk, &[&MATVEC_DOT4, &DOT8], true);
        let (least, _) = site.caps.subgroups.unwrap_or((1, 1));
        let per_group = self.rows * self.lanes / least as usize;
        stage.name = "matvec_dot4";
        stage.constants.extend([
            ("R", self.rows as f64),
            ("WG", self.lanes as f64),
            ("NORM", f64::from(u8::from(op.norm.is_some()))),
            ("GATED", f64::from(u8::from(op.gate.is_some()))),
        ]);
        let groups = chunk.rows.div_ceil(per_group).min(self.groups);
        Stage { grid: [groups as u32, 1, 1], ..stage }
    }
}
