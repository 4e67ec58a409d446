//! Kernels of a linear layer for a few rows of `x` at once, by integer products: a batch of tokens.

use super::kernel::{declare, spread, sums};
use super::linear::{FEW, Linear};
use super::matvec::{DOT8, add_gain};
use super::matvec_one::{ROUNDING, bytes, flag};
use super::weight::{Chunk, Format, Reader, UNIT};
use crate::op::{Arg, Kernel, Site, Stage, Word};
use crate::wgsl::{File, wgsl};

static BYTES: File = wgsl!("bytes.wgsl");
static ROWS: File = wgsl!("matvec_rows.wgsl");
static X_ALIGNED: File = wgsl!("parts/x_aligned.wgsl");
pub(super) static GATHER: File = wgsl!("parts/gather.wgsl");

/// Values of `x` that a workgroup has at a time.
const BLOCK: usize = 1024;

/// Rows of the weight that keep a large GPU busy for long.
const MANY: usize = 8192;

/// How a workgroup divides its work.
#[derive(Clone, Copy)]
struct Shape {
    /// Rows of the weight that a team takes at a time: 2 or 4.
    rows: usize,
    /// Invocations of a workgroup.
    lanes: usize,
    /// Invocations of a team, at most.
    team: usize,
    /// Whether planes come into workgroup memory.
    shared: bool,
    /// Teams that take the same rows, each with blocks of its own.
    share: usize,
}

/// The kernel for this site, where the adapter has integer products.
pub(super) fn kernel(op: &Linear, site: &Site<'_>, chunks: &[Chunk]) -> Option<Kernel> {
    // As an NVIDIA H200 likes it.
    let (m, n) = (site.inputs[0].axis(2), chunks[0].rows);
    let lasts = m > 2 && n > MANY && !matches!(op.format, Format::Affine { bits: 8, .. });
    let shape = match (m, n) {
        (..=4, _) => Shape { rows: 4, lanes: 128, team: 32, shared: false, share: if lasts { 1 } else { 2 } },
        (_, ..=MANY) => Shape { rows: 2, lanes: 256, team: 32, shared: true, share: 1 },
        _ => Shape { rows: 2, lanes: 256, team: 16, shared: true, share: 1 },
    };
    arranged(op, site, chunks, shape)
}

/// The same in other arrangements, for a tuner.
pub(super) fn variants(op: &Linear, site: &Site<'_>, chunks: &[Chunk]) -> Vec<Kernel> {
    let shapes = [
        (4, 128, 16, true, 1),
        (4, 128, 8, true, 1),
        (4, 128, 32, true, 1),
        (2, 128, 16, true, 1),
        (2, 256, 32, true, 1),
        (2, 256, 16, true, 1),
        (2, 256, 8, true, 1),
        (4, 128, 32, false, 1),
        (4, 128, 32, false, 2),
        (4, 128, 32, false, 4),
    ];
    let shape = |(rows, lanes, team, shared, share)| Shape { rows, lanes, team, shared, share };
    shapes.into_iter().filter_map(|each| arranged(op, site, chunks, shape(each))).collect()
}

fn arranged(op: &Linear, site: &Site<'_>, chunks: &[Chunk], shape: Shape) -> Option<Kernel> {
    let (least, _) = site.caps.subgroups?;
    let reader = bytes(op, site)?;
    let team = (least as usize).min(shape.team);
    let m = site.inputs[0].axis(2);
    let (lanes, limit) = (shape.lanes, site.caps.workgroup_size as usize);
    let memory = m * (2 * BLOCK + BLOCK / 2) + m * lanes / team * 16;
    let fits = lanes <= limit && memory <= site.caps.workgroup_memory as usize;
    if !(2..=FEW).contains(&m) || team < 4 || !fits || lanes / team < shape.share {
        return None;
    }
    Some(after_planes(op, site, chunks.iter().map(|chunk| product(op, site, &reader, chunk, shape, team))))
}

/// The stages of `products`, after the one that makes [`planes`].
pub(super) fn after_planes(op: &Linear, site: &Site<'_>, products: impl Iterator<Item = Stage>) -> Kernel {
    let [m, k] = [site.inputs[0].axis(2), site.inputs[0].axis(1)];
    let values = m * k.next_multiple_of(BLOCK);
    // A gate multiplies two such results, and is off by what either is.
    let rounding = if op.gate.is_some() { 2.0 } else { 1.0 } * ROUNDING;
    let stages = std::iter::once(planes(op, site)).chain(products).collect();
    Kernel { scratch: vec![2 * values as u64, values as u64 / 2], stages, rounding }
}

/// The stage that rewrites `x` as planes of bytes.
fn planes(op: &Linear, site: &Site<'_>) -> Stage {
    let [m, k] = [site.inputs[0].axis(2), site.inputs[0].axis(1)];
    let ([planes, order], of_planes) = op.format.planes();
    let mut stage = Stage {
        name: "bytes",
        files: vec![&BYTES, planes, order, &X_ALIGNED, &DOT8, sums(site.caps)],
        constants: [&[("NORM", flag(op.norm.is_some()))], of_planes].concat(),
        reads: vec![Arg::Input(0)],
        writes: vec![Arg::Scratch(0), Arg::Scratch(1)],
        params: vec![
            ("m", m.into()),
            ("k", k.into()),
            ("units", k.div_ceil(UNIT).into()),
            ("eps", op.norm.unwrap_or(0.0).into()),
        ],
        grid: [m as u32, k.div_ceil(BLOCK) as u32, 1],
        ..Stage::default()
    };
    let mut reads = vec![("x", "array<vec4<f32>>")];
    add_gain(&mut stage, &mut reads, op.places().gain, site);
    let writes = [("planes", "array<vec4<u32>>"), ("scaling", "array<vec4<f32>>")];
    stage.generated = declare(&stage, &reads, &writes);
    stage
}

/// The stage that multiplies them with rows of the weight.
fn product(op: &Linear, site: &Site<'_>, reader: &Reader, chunk: &Chunk, shape: Shape, team: usize) -> Stage {
    let gated = op.gate.is_some();
    let (per, teams) = (if gated { 2 } else { 1 }, shape.lanes / team);
    let (grid, stride) = spread((chunk.rows / per).div_ceil(teams / shape.share * shape.rows / per));
    let params = vec![("teams", teams.into()), ("stride", stride)];
    let mut stage = with_planes(op, site, reader, chunk, (&[&ROWS, &GATHER], params));
    stage.name = "matvec_rows";
    stage.constants.extend([
        ("WG", shape.lanes as f64),
        ("TEAM", team as f64),
        ("R", shape.rows as f64),
        ("GATED", flag(gated)),
        ("SHARED", flag(shape.shared)),
    ]);
    stage.constants.extend((shape.share > 1).then_some(("SHARE", shape.share as f64)));
    Stage { grid, ..stage }
}

/// What stages share that multiply [`planes`]: parts, bindings, parameters. `own` are a stage's files and parameters.
pub(super) fn with_planes(
    op: &Linear,
    site: &Site<'_>,
    reader: &Reader,
    chunk: &Chunk,
    own: (&[&'static File], Vec<(&'static str, Word)>),
) -> Stage {
    let [m, k] = [site.inputs[0].axis(2), site.inputs[0].axis(1)];
    let epilogue = op.epilogue(site);
    let mut stage = Stage {
        files: [own.0, &reader.files, &epilogue.files].concat(),
        constants: [&reader.constants[..], &epilogue.constants].concat(),
        reads: [vec![Arg::Scratch(0), Arg::Scratch(1)], chunk.args.clone()].concat(),
        writes: vec![Arg::Output],
        params: vec![
            ("m", m.into()),
            ("n", site.output.axis(1).into()),
            ("rows", chunk.rows.into()),
            ("first_row", chunk.first_row.into()),
            ("units", k.div_ceil(UNIT).into()),
            ("groups", op.format.groups(op.weight(site.inputs)).into()),
            ("blocks", k.div_ceil(BLOCK).into()),
        ],
        baked: true,
        ..Stage::default()
    };
    stage.params.extend(own.1);
    let mut reads = vec![("all_planes", "array<vec4<u32>>"), ("all_scaling", "array<vec4<f32>>")];
    reads.extend(&reader.bindings);
    for (name, words, arg) in epilogue.reads {
        stage.reads.push(arg);
        reads.push((name, words));
    }
    stage.generated = declare(&stage, &reads, &[("y", "array<f32>")]);
    stage
}
