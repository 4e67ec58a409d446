//! Kernels of a linear layer for few rows of `x`: what a token costs.

use super::kernel::{declare, kind, spread, with_sums};
use super::linear::Linear;
use super::weight::{Chunk, Format, Reader, UNIT};
use crate::gpu::Caps;
use crate::op::{Arg, Kernel, Site, Stage};
use crate::wgsl::{File, wgsl};

static MATVEC: File = wgsl!("matvec.wgsl");
static MATVEC_DOT4: File = wgsl!("matvec_dot4.wgsl");
static X_ALIGNED: File = wgsl!("parts/x_aligned.wgsl");
static X_ODD: File = wgsl!("parts/x_odd.wgsl");
static DOT8: File = wgsl!("parts/dot8.wgsl");
static GAIN: File = wgsl!("parts/gain.wgsl");
static NO_GAIN: File = wgsl!("parts/no_gain.wgsl");

/// The kernels for this site, best first.
pub(super) fn kernels(op: &Linear, site: &Site<'_>) -> Vec<Kernel> {
    let Some(reader) = op.format.reader(op.weight(site.inputs)) else { return Vec::new() };
    let Some(chunks) = chunks(op, site) else { return Vec::new() };
    let integers = Dot4::new(op, site).map(|dot4| dot4.kernel(op, site, &chunks));
    let shape = Shape::new(op.format, site.caps, chunks[0].rows, site.inputs[0].axis(1));
    let floats = with_sums(site.caps, |sums| shape.kernel(op, site, &reader, &chunks, sums));
    integers.into_iter().chain(floats).collect()
}

/// The best kernel in other arrangements, for a tuner.
pub(super) fn variants(op: &Linear, site: &Site<'_>) -> Vec<Kernel> {
    let Some(chunks) = chunks(op, site) else { return Vec::new() };
    let most = site.caps.workgroup_size as usize;
    if Dot4::new(op, site).is_some() {
        let shapes =
            [(1, 1024, 264), (1, 512, 528), (2, 512, 264), (2, 512, 528), (2, 256, 528), (4, 256, 528)];
        let fits =
            |&&(rows, lanes, _): &&(usize, usize, usize)| lanes <= most && (rows > 1 || op.gate.is_none());
        let variant = |&(rows, lanes, groups)| {
            let dot4 = Dot4 { rows, lanes, groups, ..Dot4::new(op, site)? };
            Some(dot4.kernel(op, site, &chunks))
        };
        return shapes.iter().filter(fits).filter_map(variant).collect();
    }
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
fn chunks(op: &Linear, site: &Site<'_>) -> Option<Vec<Chunk>> {
    let chunks = op.format.chunks(op.weight(site.inputs), op.places().weight, site.caps);
    (op.gate.is_none() || chunks.len() == 1).then_some(chunks)
}

/// What the kernels share: parts, bindings, parameters. Grid and own constants are added by the
/// callers.
fn stage(op: &Linear, site: &Site<'_>, reader: &Reader, chunk: &Chunk, own: &[&'static File]) -> Stage {
    let gain = op.places().gain;
    let k = site.inputs[0].axis(1);
    let aligned = k.is_multiple_of(UNIT);
    let epilogue = op.epilogue(site);

    let mut stage = Stage { name: "linear", files: own.to_vec(), baked: true, ..Stage::default() };
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
        ("stride", 0u32.into()),
        ("eps", op.norm.unwrap_or(0.0).into()),
    ];
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

/// How floating-point products are arranged.
struct Shape {
    /// Rows that share a workgroup.
    rows: usize,
    /// Its invocations.
    lanes: usize,
}

impl Shape {
    /// A discrete GPU has more invocations than a weight with few rows keeps busy: there rows are cut finer.
    /// Measured on an NVIDIA H200; small workgroups lose less at their ends where rows are many.
    fn new(format: Format, caps: &Caps, rows: usize, k: usize) -> Self {
        let units = k.div_ceil(UNIT);
        let (rows, lanes) = match format {
            _ if caps.unified || units < 256 => (4, 64),
            Format::Dense if rows >= 16384 => (4, 64),
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
            let mut stage = stage(op, site, reader, chunk, &[&MATVEC, &DOT8, sums]);
            let (grid, stride) = spread(chunk.rows.div_ceil(self.rows));
            stage.name = "matvec";
            stage.constants.extend([
                ("M", site.inputs[0].axis(2) as f64),
                ("NORM", f64::from(u8::from(op.norm.is_some()))),
                ("GATED", f64::from(u8::from(op.gate.is_some()))),
                ("R", self.rows as f64),
                ("WG", self.lanes as f64),
            ]);
            stage.params[7].1 = stride;
            Stage { grid, ..stage }
        };
        Kernel { stages: chunks.iter().map(stage).collect(), ..Kernel::default() }
    }
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

impl Dot4 {
    /// Integer products, where the adapter has them, one row of `x` fits into workgroup memory as planes, and
    /// codes are bytes or halves of them. The arrangement is what was best on an NVIDIA H200: where rows are
    /// few, each gets a subgroup; large workgroups make fewer planes.
    fn new(op: &Linear, site: &Site<'_>) -> Option<Self> {
        let (weight, x) = (op.weight(site.inputs), &site.inputs[0]);
        let reader = op.format.bytes(weight)?;
        let k = x.axis(1);
        let memory = 2 * k + 8 * k.div_ceil(32) + 512;
        let (least, _) = site.caps.subgroups?;
        if !site.caps.dot4 || least < 4 || x.axis(2) != 1 || memory > site.caps.workgroup_memory as usize {
            return None;
        }
        let most = site.caps.workgroup_size as usize;
        let few = weight[0].dims[0] <= 4096 && op.gate.is_none();
        let (rows, lanes) = if few { (1, 1024) } else { (2, 512) };
        Some(Self { reader, lanes: lanes.min(most), rows, groups: 264 })
    }

    fn kernel(&self, op: &Linear, site: &Site<'_>, chunks: &[Chunk]) -> Kernel {
        let (least, _) = site.caps.subgroups.unwrap_or((1, 1));
        let per_group = self.rows * self.lanes / least as usize;
        let stage = |chunk: &Chunk| {
            let mut stage = stage(op, site, &self.reader, chunk, &[&MATVEC_DOT4, &DOT8]);
            stage.name = "matvec_dot4";
            stage.constants.extend([
                ("R", self.rows as f64),
                ("WG", self.lanes as f64),
                ("NORM", f64::from(u8::from(op.norm.is_some()))),
                ("GATED", f64::from(u8::from(op.gate.is_some()))),
            ]);
            let groups = chunk.rows.div_ceil(per_group).min(self.groups);
            Stage { grid: [groups as u32, 1, 1], ..stage }
        };
        // A gate multiplies two such results, and is off by what either is.
        let rounding = if op.gate.is_some() { 2.0 * PLANES } else { PLANES };
        Kernel { stages: chunks.iter().map(stage).collect(), rounding, ..Kernel::default() }
    }
}
