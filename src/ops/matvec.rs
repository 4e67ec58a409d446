//! Kernels of a linear layer for few rows of `x`: what a token costs. Those for one row alone are in `matvec_one`.

use super::kernel::{FLOATS, PACK, declare, kind, spread, with_sums};
use super::linear::Linear;
use super::matvec_one;
use super::weight::{Chunk, Format, Reader, UNIT};
use crate::gpu::Caps;
use crate::op::{Arg, Kernel, Site, Stage, Word};
use crate::wgsl::{File, wgsl};

static MATVEC: File = wgsl!("matvec.wgsl");
static X_ALIGNED: File = wgsl!("parts/x_aligned.wgsl");
static X_ODD: File = wgsl!("parts/x_odd.wgsl");
pub(super) static DOT8: File = wgsl!("parts/dot8.wgsl");
static GAIN: File = wgsl!("parts/gain.wgsl");
static NO_GAIN: File = wgsl!("parts/no_gain.wgsl");

/// The kernels for this site, best first.
pub(super) fn kernels(op: &Linear, site: &Site<'_>) -> Vec<Kernel> {
    let Some(reader) = op.format.reader(op.weight(site.inputs)) else { return Vec::new() };
    let Some(chunks) = chunks(op, site) else { return Vec::new() };
    let one = matvec_one::kernels(op, site, &chunks);
    let [m, k] = [site.inputs[0].axis(2), site.inputs[0].axis(1)];
    let shape = Shape::new(op.format, site.caps, [m, chunks[0].rows, k]);
    let floats = with_sums(site.caps, |sums| shape.kernel(op, site, &reader, &chunks, sums));
    one.into_iter().chain(floats).collect()
}

/// The best kernel in other arrangements, for a tuner.
pub(super) fn variants(op: &Linear, site: &Site<'_>) -> Vec<Kernel> {
    let Some(chunks) = chunks(op, site) else { return Vec::new() };
    let one = matvec_one::variants(op, site, &chunks);
    if !one.is_empty() {
        return one;
    }
    let most = site.caps.workgroup_size as usize;
    let Some(reader) = op.format.reader(op.weight(site.inputs)) else { return Vec::new() };
    let shapes = [(4, 64), (4, 128), (4, 256), (2, 64), (2, 128), (2, 256)];
    let fits = |&&(_, lanes): &&(usize, usize)| lanes <= most;
    let variant = |&(rows, lanes)| {
        let shape = Shape { rows, lanes };
        with_sums(site.caps, |sums| shape.kernel(op, site, &reader, &chunks, sums)).into_iter().next()
    };
    shapes.iter().filter(fits).filter_map(variant).collect()
}

/// The weight in parts that bindings can show; the partner of a gate's row must not be in another.
pub(super) fn chunks(op: &Linear, site: &Site<'_>) -> Option<Vec<Chunk>> {
    let chunks = op.format.chunks(op.weight(site.inputs), op.places().weight, site.caps);
    (op.gate.is_none() || chunks.len() == 1).then_some(chunks)
}

/// What the kernels share: parts, bindings, parameters. Grid and own constants are added by the
/// callers, `own` are their files and a parameter.
pub(super) fn stage(
    op: &Linear,
    site: &Site<'_>,
    reader: &Reader,
    chunk: &Chunk,
    own: (&[&'static File], Option<(&'static str, Word)>),
) -> Stage {
    let gain = op.places().gain;
    let k = site.inputs[0].axis(1);
    let aligned = k.is_multiple_of(UNIT);
    let epilogue = op.epilogue(site);

    let mut stage = Stage { name: "linear", files: own.0.to_vec(), baked: true, ..Stage::default() };
    stage
        .files
        .extend([if aligned { &X_ALIGNED } else { &X_ODD }, if gain.is_some() { &GAIN } else { &NO_GAIN }]);
    stage.files.extend(reader.files.iter().chain(&epilogue.files));
    stage.constants = [&reader.constants[..], &epilogue.constants].concat();
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
        ("eps", op.norm.unwrap_or(0.0).into()),
    ];
    stage.params.extend(own.1);
    let mut reads = vec![("x", if aligned { "array<vec4<f32>>" } else { "array<f32>" })];
    reads.extend(&reader.bindings);
    if let Some(gain) = gain {
        stage.reads.push(Arg::Input(gain));
        stage.constants.push(("GAIN", kind(site.inputs[gain].dtype)));
        reads.push(("gain", "array<u32>"));
    }
    for (name, words, arg) in epilogue.reads {
        stage.reads.push(arg);
        reads.push((name, words));
    }
    stage.generated = declare(&stage, &reads, &[("y", "array<f32>")]);
    stage
}

/// Adds the gain of a norm, which is an input, to a stage that rewrites `x` before it is multiplied.
pub(super) fn add_gain(
    stage: &mut Stage,
    reads: &mut Vec<(&'static str, &'static str)>,
    gain: Option<usize>,
    site: &Site<'_>,
) {
    let Some(gain) = gain else {
        stage.files.push(&NO_GAIN);
        return;
    };
    stage.files.extend([&GAIN, &FLOATS, &PACK]);
    stage.constants.push(("GAIN", kind(site.inputs[gain].dtype)));
    stage.reads.push(Arg::Input(gain));
    reads.push(("gain", "array<u32>"));
}

/// How floating-point products are arranged.
struct Shape {
    /// Rows that share a workgroup.
    rows: usize,
    /// Its invocations.
    lanes: usize,
}

impl Shape {
    /// A discrete GPU has more invocations than a weight with few rows keeps busy: there rows are cut finer.
    /// Measured on an NVIDIA H200; small workgroups lose less at their ends where rows are many. Several rows of x, on an
    /// H100: reading them takes time, so each value serves four rows of the weight.
    fn new(format: Format, caps: &Caps, [m, rows, k]: [usize; 3]) -> Self {
        let units = k.div_ceil(UNIT);
        let (rows, lanes) = match format {
            _ if caps.unified || units < 256 => (4, 64),
            Format::Dense if rows >= 16384 => (4, 64),
            Format::Dense if m == 2 => (4, 128),
            Format::Dense if m > 1 => (4, if units >= 1024 { 256 } else { 64 }),
            Format::Dense if units >= 1024 => (2, 256),
            Format::Dense => (2, 128),
            Format::Affine { .. } => (4, if rows >= 16384 { 64 } else { 128 }),
        };
        Self { rows, lanes }
    }

    fn kernel(
        &self,
        op: &Linear,
        site: &Site<'_>,
        reader: &Reader,
        chunks: &[Chunk],
        sums: &'static File,
    ) -> Kernel {
        let stage = |chunk: &Chunk| {
            let (grid, stride) = spread(chunk.rows.div_ceil(self.rows));
            let own: (&[&File], _) = (&[&MATVEC, &DOT8, sums], Some(("stride", stride)));
            let mut stage = stage(op, site, reader, chunk, own);
            stage.name = "matvec";
            stage.constants.extend([
                ("M", site.inputs[0].axis(2) as f64),
                ("NORM", f64::from(u8::from(op.norm.is_some()))),
                ("GATED", f64::from(u8::from(op.gate.is_some()))),
                ("R", self.rows as f64),
                ("WG", self.lanes as f64),
            ]);
            Stage { grid, ..stage }
        };
        Kernel { stages: chunks.iter().map(stage).collect(), ..Kernel::default() }
    }
}
