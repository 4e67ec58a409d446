//! Kernels of a linear layer for few rows of `x`: what a token costs.

use super::kernel::{ACT, ERF, declare, kind, spread, with_sums};
use super::linear::{Linear, Places};
use super::weight::{Chunk, Format, Reader, UNIT};
use crate::gpu::Caps;
use crate::op::{Arg, Kernel, Site, Stage};
use crate::wgsl::{File, wgsl};

static MATVEC: File = wgsl!("matvec.wgsl");
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
    with_sums(site.caps, |sums| Kernel {
        scratch: Vec::new(),
        stages: chunks.iter().map(|chunk| dense(op, site, &reader, chunk, sums)).collect(),
    })
}

/// What kernels of a linear layer share: parts, bindings, parameters. Grid and own constants are added by the
/// callers.
pub(super) fn stage(
    op: &Linear,
    site: &Site<'_>,
    reader: &Reader,
    chunk: &Chunk,
    own: &[&'static File],
) -> Stage {
    let Places { gain, bias, residual, .. } = op.places();
    let k = site.inputs[0].axis(1);
    let aligned = k.is_multiple_of(UNIT);

    let mut stage = Stage { name: "linear", files: own.to_vec(), ..Stage::default() };
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
    let mut stage = stage(op, site, reader, chunk, &[&MATVEC, &DOT8, sums]);
    let (grid, stride) = spread(chunk.rows.div_ceil(4));
    let units = site.inputs[0].axis(1).div_ceil(UNIT);
    stage.name = "matvec";
    stage.constants.extend([
        ("M", site.inputs[0].axis(2) as f64),
        ("NORM", f64::from(u8::from(op.norm.is_some()))),
        ("GATED", f64::from(u8::from(op.gate.is_some()))),
        ("WG", lanes(op.format, site.caps, chunk.rows, units) as f64),
    ]);
    stage.params[7].1 = stride;
    Stage { grid, ..stage }
}

/// Invocations that share four rows. A discrete GPU has more of them than a weight with few rows keeps busy:
/// there rows are cut finer, if each still gets two units. Where quantized rows are many, small workgroups
/// lose less at their ends.
fn lanes(format: Format, caps: &Caps, rows: usize, units: usize) -> usize {
    let enough = rows >= 16384 && format != Format::Dense;
    if caps.unified || enough || units < 256 { 64 } else { 128 }
}
