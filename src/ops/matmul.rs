//! Kernels of `x W^T` for many rows of `x`: tiles by cooperative matrices where the adapter has them, by
//! plain arithmetic everywhere.
//!
//! The cooperative kernel multiplies halves and sums in f32. `halves` first writes the rows of `x` as f16,
//! each scaled by a power of two, so nothing overflows; weights become f16 on their way into workgroup
//! memory. Where tiles are too few to keep a large GPU busy, k is split and a last stage adds the parts.

use super::kernel::{NARROW, declare, fits, spread};
use super::matmul_tile::{Matrices, Tile, unrolled};
use super::matvec::add_gain;
use super::weight::{Chunk, Format, UNIT};
use crate::dtype::Dtype;
use crate::op::{Arg, Kernel, Site, Stage};
use crate::wgsl::{File, wgsl};

static MATMUL: File = wgsl!("matmul.wgsl");
static COOP: File = wgsl!("matmul_coop.wgsl");
static COMBINE: File = wgsl!("matmul_combine.wgsl");
static HALVES: File = wgsl!("halves.wgsl");
static X_ALIGNED: File = wgsl!("parts/x_aligned.wgsl");
static X_ODD: File = wgsl!("parts/x_odd.wgsl");
static TILES_VECTOR: File = wgsl!("parts/tiles_vector.wgsl");
static TILES_SCALAR: File = wgsl!("parts/tiles_scalar.wgsl");
static HALF_F16: File = wgsl!("parts/half_f16.wgsl");
static HALF_BF16: File = wgsl!("parts/half_bf16.wgsl");
static HALF_PAIRS: File = wgsl!("parts/half_pairs.wgsl");
static HALF_BYTES: File = wgsl!("parts/half_bytes.wgsl");
static HALF_Q8: File = wgsl!("parts/half_q8.wgsl");
static HALF_SCALE: File = wgsl!("parts/half_scale.wgsl");
static X_HALVES: File = wgsl!("parts/x_halves.wgsl");
static HALF_ANY: File = wgsl!("parts/half_any.wgsl");

/// Rows of `x` and of the weight that make a tile of the plain kernel.
const TILE: usize = 64;

/// What becomes of each sum: parts that supply `emit(m, n, value)`, or `emit_gated(m, n, gate, up)` if gated.
#[derive(Clone, Debug, Default)]
pub(super) struct Epilogue {
    /// WGSL files with these and what they call.
    pub(super) files: Vec<&'static File>,
    /// Their constants.
    pub(super) constants: Vec<(&'static str, f64)>,
    /// Their bindings: name, type, what is bound.
    pub(super) reads: Vec<(&'static str, &'static str, Arg)>,
    /// The weight is two of `n` rows each, one above the other, and `emit_gated` takes row `r` of both.
    pub(super) gated: bool,
}

/// How the cooperative kernel brings a weight into workgroup memory.
#[derive(Default)]
struct Loader {
    files: Vec<&'static File>,
    constants: Vec<(&'static str, f64)>,
    bindings: Vec<(&'static str, &'static str)>,
    /// Values of one load.
    load: usize,
    /// Whether conversions are what a larger tile should spare.
    spare: bool,
    /// The order of codes that `halves` keeps: 4 of pairs of them, 8 of bytes; or 0.
    order: u32,
}

/// The multiplication at a site; `x` is input 0.
pub(super) struct Matmul<'a> {
    pub(super) site: &'a Site<'a>,
    pub(super) format: Format,
    /// The first of the weight's inputs.
    pub(super) first: usize,
    pub(super) epilogue: &'a Epilogue,
    /// Cooperative kernels take `x` as two halves each, which costs twice the time and loses nothing of it.
    pub(super) exact: bool,
    /// RMS norm of `x` before all: epsilon, and which input is the gain. Only cooperative kernels do it.
    pub(super) norm: Option<(f32, usize)>,
}

impl Matmul<'_> {
    /// The kernels, best first; none if the grid would be too large.
    pub(super) fn kernels(&self) -> Vec<Kernel> {
        // The partner of a gate's row would be in another chunk.
        if self.epilogue.gated && self.chunks().len() > 1 {
            return Vec::new();
        }
        self.cooperative().into_iter().chain(self.plain()).collect()
    }

    fn weight(&self) -> &[crate::op::Spec] {
        &self.site.inputs[self.first..][..self.format.inputs()]
    }

    fn chunks(&self) -> Vec<Chunk> {
        self.format.chunks(self.weight(), self.first, self.site.caps)
    }

    /// Rows and columns of `x`.
    fn x(&self) -> [usize; 2] {
        [self.site.inputs[0].axis(2), self.site.inputs[0].axis(1)]
    }

    fn x_part(&self) -> (&'static File, (&'static str, &'static str)) {
        match self.x()[1].is_multiple_of(UNIT) {
            true => (&X_ALIGNED, ("x", "array<vec4<f32>>")),
            false => (&X_ODD, ("x", "array<f32>")),
        }
    }

    fn params(&self, chunk: &Chunk) -> Vec<(&'static str, crate::op::Word)> {
        let [m, k] = self.x();
        vec![
            ("m", m.into()),
            ("n", self.site.output.axis(1).into()),
            ("rows", chunk.rows.into()),
            ("first_row", chunk.first_row.into()),
            ("k", k.into()),
            ("units", k.div_ceil(UNIT).into()),
            ("groups", self.format.groups(self.weight()).into()),
        ]
    }

    /// Adds the epilogue to a stage whose own bindings are `reads` and declares all of them.
    fn finish(&self, mut stage: Stage, mut reads: Vec<(&'static str, &'static str)>) -> Stage {
        stage.files.extend(&self.epilogue.files);
        stage.constants.extend(&self.epilogue.constants);
        for &(name, of, arg) in &self.epilogue.reads {
            stage.reads.push(arg);
            reads.push((name, of));
        }
        stage.writes = vec![Arg::Output];
        stage.generated.push_str(&declare(&stage, &reads, &[("y", "array<f32>")]));
        stage
    }

    /// The stage that adds up `parts` sums of each result, part after part.
    pub(super) fn combine(&self, parts: usize, sums: Arg) -> Stage {
        let (m, n) = (self.x()[0], self.site.output.axis(1));
        let (grid, stride) = spread((m * n).div_ceil(256));
        let (columns, finish) = match self.epilogue.gated {
            true => (2 * n, "emit_gated(m, n, sum_at(m, n), sum_at(m, n + params.n))"),
            false => (n, "emit(m, n, sum_at(m, n))"),
        };
        let combine = Stage {
            name: "matmul_combine",
            files: vec![&COMBINE],
            generated: format!("fn finish(m: u32, n: u32) {{ {finish}; }}\n"),
            reads: vec![sums],
            params: vec![
                ("m", m.into()),
                ("n", n.into()),
                ("columns", columns.into()),
                ("parts", parts.into()),
                ("stride", stride),
            ],
            grid,
            ..Stage::default()
        };
        self.finish(combine, vec![("partial_sums", "array<f32>")])
    }

    fn plain(&self) -> Option<Kernel> {
        if self.norm.is_some() {
            return None;
        }
        let reader = self.format.reader(self.weight())?;
        let chunks = self.chunks();
        let m = self.x()[0];
        let grid = |chunk: &Chunk| [chunk.rows.div_ceil(TILE), m.div_ceil(TILE), 1];
        if !fits(grid(&chunks[0])) {
            return None;
        }
        let (x_file, x) = self.x_part();
        let stage = |chunk: &Chunk| {
            let mut reads = vec![x];
            reads.extend(&reader.bindings);
            let stage = Stage {
                name: "matmul",
                files: [vec![&MATMUL, x_file], reader.files.clone()].concat(),
                constants: [
                    reader.constants.clone(),
                    vec![("GATED", f64::from(u8::from(self.epilogue.gated)))],
                ]
                .concat(),
                reads: [vec![Arg::Input(0)], chunk.args.clone()].concat(),
                params: self.params(chunk),
                grid: grid(chunk).map(|groups| groups as u32),
                ..Stage::default()
            };
            self.finish(stage, reads)
        };
        Some(Kernel { stages: chunks.iter().map(stage).collect(), ..Kernel::default() })
    }

    /// Parts that bring the weight into workgroup memory, their constants and bindings.
    fn loader(&self) -> Option<Loader> {
        let parts = self.weight();
        let aligned = self.x()[1].is_multiple_of(UNIT);
        match (self.format, parts[0].dtype) {
            (Format::Dense, dtype @ (Dtype::F16 | Dtype::BF16)) if aligned => {
                let file = if dtype == Dtype::F16 { &HALF_F16 } else { &HALF_BF16 };
                Some(Loader {
                    files: vec![file],
                    bindings: vec![("weight", "array<vec4<u32>>")],
                    load: 8,
                    spare: dtype == Dtype::BF16,
                    ..Loader::default()
                })
            }
            // Scales of f32 would lose what they have beyond halves, all codes of a group the same way.
            // Five loads of a word at a time made prompts of 5 bits 4% slower on an NVIDIA H200.
            (Format::Affine { bits: bits @ (2 | 3 | 4 | 6 | 8), .. }, _) if parts[1].dtype != Dtype::F32 => {
                let reader = self.format.packed(parts)?;
                let (file, load, order) = match bits {
                    8 => (&HALF_Q8, 16, 8),
                    6 => (&HALF_BYTES, 32, 8),
                    _ => (&HALF_PAIRS, 32, 4),
                };
                let files = [vec![file, &HALF_SCALE], reader.files].concat();
                let (constants, bindings) = (reader.constants, reader.bindings);
                Some(Loader { files, constants, bindings, load, spare: false, order })
            }
            // Whoever keeps f32 weights wants f32 products.
            (Format::Dense, Dtype::F32) => None,
            _ => {
                let reader = self.format.reader(parts)?;
                let files = [vec![&HALF_ANY], reader.files].concat();
                Some(Loader {
                    files,
                    constants: reader.constants,
                    bindings: reader.bindings,
                    load: 8,
                    ..Loader::default()
                })
            }
        }
    }

    fn cooperative(&self) -> Option<Kernel> {
        let matrices = Matrices::of(self.site.caps)?;
        let loader = self.loader()?;
        let chunks = self.chunks();
        let [m, k] = self.x();
        let (tile, split) = Tile::choose([m, chunks[0].rows, k], loader.spare, &matrices, self.site.caps);
        let [bm, bn] = tile.size(&matrices);
        let rows = m.div_ceil(bm) * bm;
        let width = k.div_ceil(tile.bk) * tile.bk / UNIT;
        let planes = if self.exact { 2 } else { 1 };
        let all_steps = planes * width * UNIT / tile.bk;
        let tiles = |chunk: &Chunk| [m.div_ceil(bm), chunk.rows.div_ceil(bn)];
        let steps = all_steps.div_ceil(split.min(all_steps));
        let split = all_steps.div_ceil(steps);
        // Gated pairs meet in a subgroup's tile, or where parts do.
        let n = self.site.output.axis(1);
        let combined = split > 1 || self.epilogue.gated && !tile.holds_pairs();
        let gated = self.epilogue.gated && !combined;
        let columns = if self.epilogue.gated { 2 * n } else { n };
        if !fits([rows, tiles(&chunks[0]).iter().product(), split]) {
            return None;
        }
        let mut kernel = Kernel {
            scratch: vec![(rows * planes * width * UNIT * 2) as u64, (m * 4) as u64],
            stages: vec![self.halves([bm, tile.bk], rows, planes, all_steps, loader.order)],
            // A gate multiplies two such results, and is off by what either is.
            rounding: if self.epilogue.gated { 2.0 } else { 1.0 } * Dtype::F16.epsilon(),
        };
        if combined {
            kernel.scratch.push((split * m * columns * 4) as u64);
        }
        let tiles_file = if matrices.vectors { &TILES_VECTOR } else { &TILES_SCALAR };
        for chunk in &chunks {
            let mut stage = Stage {
                name: "matmul_coop",
                files: [vec![&COOP, &X_HALVES, &NARROW, tiles_file], loader.files.clone()].concat(),
                generated: unrolled(&tile, &matrices, planes, gated, combined, loader.load),
                constants: loader.constants.clone(),
                reads: [vec![Arg::Scratch(0), Arg::Scratch(1)], chunk.args.clone()].concat(),
                params: self.params(chunk),
                grid: [tiles(chunk).iter().product::<usize>() as u32, 1, split as u32],
                ..Stage::default()
            };
            let [tiles_m, tiles_n] = tiles(chunk);
            stage.params.extend([
                ("steps_of_k", (all_steps / planes).into()),
                ("steps", steps.into()),
                ("all_steps", all_steps.into()),
                ("tiles_m", tiles_m.into()),
                ("tiles_n", tiles_n.into()),
            ]);
            let mut reads = vec![("x", "array<vec4<u32>>"), ("row_scale", "array<f32>")];
            reads.extend(&loader.bindings);
            if !combined {
                kernel.stages.push(self.finish(stage, reads));
            } else {
                stage.params[1].1 = columns.into();
                stage.writes = vec![Arg::Scratch(2)];
                let declared = declare(&stage, &reads, &[("partial_sums", "array<f32>")]);
                stage.generated.push_str(&declared);
                kernel.stages.push(stage);
            }
        }
        if combined {
            kernel.stages.push(self.combine(split, Arg::Scratch(2)));
        }
        Some(kernel)
    }

    /// The stage that rewrites `x` as halves, for tiles of these sizes.
    fn halves(
        &self,
        [bm, bk]: [usize; 2],
        rows: usize,
        planes: usize,
        all_steps: usize,
        order: u32,
    ) -> Stage {
        let [m, k] = self.x();
        let (x_file, x) = self.x_part();
        // All of a row is under way at once.
        let most = self.site.caps.workgroup_size as usize;
        let lanes = k.div_ceil(UNIT).next_power_of_two().clamp(64, most);
        let mut stage = Stage {
            name: "halves",
            files: vec![&HALVES, x_file, super::kernel::sums(self.site.caps)],
            constants: vec![
                ("PLANES", planes as f64),
                ("ORDER", f64::from(order)),
                ("BM", bm as f64),
                ("BK", bk as f64),
                ("NORM", f64::from(u8::from(self.norm.is_some()))),
                ("WG", lanes as f64),
            ],
            reads: vec![Arg::Input(0)],
            writes: vec![Arg::Scratch(0), Arg::Scratch(1)],
            params: vec![
                ("m", m.into()),
                ("k", k.into()),
                ("units", k.div_ceil(UNIT).into()),
                ("all_steps", all_steps.into()),
                ("eps", self.norm.map_or(0.0, |(eps, _)| eps).into()),
            ],
            grid: [rows as u32, 1, 1],
            ..Stage::default()
        };
        let mut reads = vec![x];
        add_gain(&mut stage, &mut reads, self.norm.map(|(_, gain)| gain), self.site);
        stage.generated =
            declare(&stage, &reads, &[("halves", "array<vec4<f16>>"), ("row_scale", "array<f32>")]);
        stage
    }
}

#[cfg(test)]
#[path = "matmul_tests.rs"]
mod stage_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Caps;
    use crate::op::Spec;
    use crate::wgsl::link;

    static PAIR: File = File {
        name: "pair",
        text: "fn emit_gated(m: u32, n: u32, gate: f32, up: f32) { y[m * params.n + n] = max(gate, 0.0) * up; }",
    };

    /// An NVIDIA adapter.
    pub(super) const CAPS: Caps = Caps {
        f16: true,
        coop16: true,
        subgroups: Some((32, 32)),
        workgroup_memory: 48 << 10,
        workgroup_size: 1024,
        ..Caps::BASELINE
    };

    #[test]
    fn gated_and_exact_kernels_are_valid() {
        let epilogue = Epilogue { files: vec![&PAIR], gated: true, ..Epilogue::default() };
        for (m, dtype) in [(9, Dtype::F16), (30, Dtype::BF16), (70, Dtype::BF16), (600, Dtype::F16)] {
            let inputs = [Spec::new(&[m, 256], Dtype::F32), Spec::new(&[2048, 256], dtype)];
            let output = Spec::new(&[m, 1024], Dtype::F32);
            let site = Site { inputs: &inputs, output: &output, caps: &CAPS };
            let matmul = Matmul {
                site: &site,
                format: Format::Dense,
                first: 1,
                epilogue: &epilogue,
                exact: true,
                norm: None,
            };
            let kernels = matmul.kernels();
            assert_eq!(kernels.len(), 2);
            assert_eq!(kernels[0].scratch[0] as usize, m.next_multiple_of(kernel_rows(m)) * 2 * 256 * 2);
            for stage in &kernels[0].stages {
                let source = link(&stage.files, &stage.generated);
                let module = source.parse().unwrap();
                source.validate(&module, naga::valid::Capabilities::all()).unwrap();
            }
        }
    }

    /// A subgroup with one column of matrices has no partner to gate it with.
    #[test]
    fn gates_of_narrow_tiles_meet_behind_them() {
        let epilogue = Epilogue { files: vec![&PAIR], gated: true, ..Epilogue::default() };
        for (m, stages) in [(6, 3), (70, 2)] {
            let inputs = [Spec::new(&[m, 192], Dtype::F32), Spec::new(&[46, 192], Dtype::F16)];
            let output = Spec::new(&[m, 23], Dtype::F32);
            let site = Site { inputs: &inputs, output: &output, caps: &CAPS };
            let (format, epilogue) = (Format::Dense, &epilogue);
            let matmul = Matmul { site: &site, format, first: 1, epilogue, exact: false, norm: None };
            assert_eq!(matmul.kernels()[0].stages.len(), stages, "{m} rows");
        }
    }

    fn kernel_rows(m: usize) -> usize {
        match m {
            0..=16 => 16,
            17..=32 => 32,
            _ => 128,
        }
    }
}
