//! Kernels of `x W^T` for many rows of `x`: tiles by cooperative matrices where the adapter has them, by
//! plain arithmetic everywhere.
//!
//! The cooperative kernel multiplies halves and sums in f32. `halves` first writes the rows of `x` as f16,
//! each scaled by a power of two, so nothing overflows; weights become f16 on their way into workgroup
//! memory. Where tiles are too few to keep a large GPU busy, k is split and a last stage adds the parts.

use super::kernel::{declare, fits, spread};
use super::weight::{Chunk, Format, UNIT};
use crate::dtype::Dtype;
use crate::gpu::Caps;
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
static HALF_ANY: File = wgsl!("parts/half_any.wgsl");

/// Rows of `x` and of the weight that make a tile of the plain kernel.
const TILE: usize = 64;

/// What becomes of each sum: parts that supply `emit(m, n, value)`, or `emit2(m, n, gate, up)` if gated.
#[derive(Clone, Debug, Default)]
pub(super) struct Epilogue {
    /// WGSL files with `emit` and what it calls.
    pub(super) files: Vec<&'static File>,
    /// Their constants.
    pub(super) constants: Vec<(&'static str, f64)>,
    /// Their bindings: name, type, what is bound.
    pub(super) reads: Vec<(&'static str, &'static str, Arg)>,
    /// The weight is two of `n` rows each, one above the other, and `emit2` takes row `r` of both.
    pub(super) gated: bool,
}

/// The multiplication at a site: `x` is input 0, the weight's inputs follow.
pub(super) struct Matmul<'a> {
    pub(super) site: &'a Site<'a>,
    pub(super) format: Format,
    pub(super) epilogue: &'a Epilogue,
}

/// How a workgroup of the cooperative kernel divides its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tile {
    /// Subgroups along m and n.
    subgroups: [usize; 2],
    /// Fragments of a subgroup along m and n.
    fragments: [usize; 2],
    /// Values of k in workgroup memory at a time.
    bk: usize,
    /// Buffers for them.
    buffers: usize,
}

/// A kind of cooperative matrices.
struct Matrices {
    edge: usize,
    lanes: usize,
    /// Tiles hold vectors rather than scalars.
    vectors: bool,
}

impl Matrices {
    fn of(caps: &Caps) -> Option<Self> {
        if !caps.f16 {
            return None;
        }
        match caps.subgroups {
            // The kernel counts on subgroups of one size.
            Some((least, most)) if caps.coop16 && least == most => {
                Some(Self { edge: 16, lanes: least as usize, vectors: true })
            }
            // Apple's have 32 lanes, whatever the interface says that they may have.
            Some(_) if caps.coop8 => Some(Self { edge: 8, lanes: 32, vectors: false }),
            _ => None,
        }
    }
}

impl Tile {
    fn new(subgroups: [usize; 2], fragments: [usize; 2], bk: usize, buffers: usize) -> Self {
        Self { subgroups, fragments, bk, buffers }
    }

    /// Outputs along m and n.
    fn size(&self, matrices: &Matrices) -> [usize; 2] {
        std::array::from_fn(|axis| self.subgroups[axis] * self.fragments[axis] * matrices.edge)
    }
}

impl Matmul<'_> {
    /// The kernels, best first; none if the grid would be too large.
    pub(super) fn kernels(&self) -> Vec<Kernel> {
        let mut kernels: Vec<Kernel> = self.cooperative().into_iter().collect();
        kernels.extend(self.plain());
        kernels
    }

    fn weight(&self) -> &[crate::op::Spec] {
        &self.site.inputs[1..=self.format.inputs()]
    }

    fn chunks(&self) -> Vec<Chunk> {
        self.format.chunks(self.weight(), 1, self.site.caps)
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

    fn plain(&self) -> Option<Kernel> {
        let reader = self.format.reader(self.weight())?;
        let chunks = self.chunks();
        let m = self.x()[0];
        let grid = |chunk: &Chunk| [chunk.rows.div_ceil(TILE), m.div_ceil(TILE), 1];
        if self.epilogue.gated || !fits(grid(&chunks[0])) {
            return None;
        }
        let (x_file, x) = self.x_part();
        let stage = |chunk: &Chunk| {
            let mut reads = vec![x];
            reads.extend(&reader.bindings);
            let stage = Stage {
                name: "matmul",
                files: [vec![&MATMUL, x_file], reader.files.clone()].concat(),
                constants: reader.constants.clone(),
                reads: [vec![Arg::Input(0)], chunk.args.clone()].concat(),
                params: self.params(chunk),
                grid: grid(chunk).map(|groups| groups as u32),
                ..Stage::default()
            };
            self.finish(stage, reads)
        };
        Some(Kernel { scratch: Vec::new(), stages: chunks.iter().map(stage).collect() })
    }

    /// Parts that bring the weight into workgroup memory, their constants and bindings.
    #[allow(clippy::type_complexity, reason = "what a reader consists of")]
    fn loader(&self) -> Option<(Vec<&'static File>, Vec<(&'static str, f64)>, Vec<(&'static str, &'static str)>)> {
        let parts = self.weight();
        let aligned = self.x()[1].is_multiple_of(UNIT);
        match (self.format, parts[0].dtype) {
            (Format::Dense, Dtype::F16) if aligned => {
                Some((vec![&HALF_F16], Vec::new(), vec![("weight", "array<vec4<f16>>")]))
            }
            (Format::Dense, Dtype::BF16) if aligned => {
                Some((vec![&HALF_BF16], Vec::new(), vec![("weight", "array<vec4<u32>>")]))
            }
            // Whoever keeps f32 weights wants f32 products.
            (Format::Dense, Dtype::F32) => None,
            _ => {
                let reader = self.format.reader(parts)?;
                Some(([vec![&HALF_ANY], reader.files].concat(), reader.constants, reader.bindings))
            }
        }
    }

    fn cooperative(&self) -> Option<Kernel> {
        let matrices = Matrices::of(self.site.caps)?;
        let (files, constants, bindings) = self.loader()?;
        let chunks = self.chunks();
        let [m, k] = self.x();
        let tile = choose(m, chunks[0].rows, &matrices);
        let [bm, bn] = tile.size(&matrices);
        let rows = m.div_ceil(bm) * bm;
        let width = k.div_ceil(tile.bk) * tile.bk / UNIT;
        let planes = planes();
        let all_steps = planes * width * UNIT / tile.bk;
        let tiles = |chunk: &Chunk| [m.div_ceil(bm), chunk.rows.div_ceil(bn)];
        let split = splits(tiles(&chunks[0]).iter().product(), all_steps, self.epilogue.gated);
        let steps = all_steps.div_ceil(split);
        let split = all_steps.div_ceil(steps);
        let n = self.site.output.axis(1);
        if !fits([rows, tiles(&chunks[0]).iter().product(), split]) {
            return None;
        }
        let mut kernel = Kernel::default();
        kernel.scratch = vec![(rows * planes * width * UNIT * 2) as u64, (m * 4) as u64];
        kernel.stages.push(self.halves(rows, planes, width));
        if split > 1 {
            kernel.scratch.push((split * m * n * 4) as u64);
        }
        for chunk in &chunks {
            let mut stage = Stage {
                name: "matmul_coop",
                files: [vec![if flag("local") { let text = COOP.text; let a = text.find("@compute").unwrap(); let b = text.find("fn fetch_x").unwrap(); Box::leak(Box::new(File { name: "coop_local", text: Box::leak(format!("{}{}", &text[..a], &text[b..]).into_boxed_str()) })) } else { &COOP }, if matrices.vectors && !flag("scalar") { &TILES_VECTOR } else { &TILES_SCALAR }], files.clone()].concat(),
                generated: if flag("local") {
                    let all = unrolled(&tile, &matrices, self.epilogue.gated, split > 1);
                    let a = all.find("var<private>").unwrap();
                    let b = all.find("fn deliver").unwrap();
                    let b2 = all[..b].rfind('}').unwrap() + 2;
                    format!("{}{}{}", &all[..a], &all[b2..], local_main(&tile, &matrices))
                } else { unrolled(&tile, &matrices, self.epilogue.gated, split > 1) },
                constants: constants.clone(),
                reads: [vec![Arg::Scratch(0), Arg::Scratch(1)], chunk.args.clone()].concat(),
                params: self.params(chunk),
                grid: [tiles(chunk).iter().product::<usize>() as u32, 1, split as u32],
                halves: true,
                ..Stage::default()
            };
            let [tiles_m, tiles_n] = tiles(chunk);
            stage.params.extend([
                ("pitch", (planes * width).into()),
                ("width", width.into()),
                ("steps", steps.into()),
                ("all_steps", all_steps.into()),
                ("tiles_m", tiles_m.into()),
                ("tiles_n", tiles_n.into()),
            ]);
            let mut reads = vec![("x", "array<vec4<f16>>"), ("row_scale", "array<f32>")];
            reads.extend(&bindings);
            if split == 1 {
                kernel.stages.push(self.finish(stage, reads));
            } else {
                stage.writes = vec![Arg::Scratch(2)];
                let declared = declare(&stage, &reads, &[("partial_sums", "array<f32>")]);
                stage.generated.push_str(&declared);
                kernel.stages.push(stage);
            }
        }
        if split > 1 {
            let (grid, stride) = spread((m * n).div_ceil(256));
            let combine = Stage {
                name: "matmul_combine",
                files: vec![&COMBINE],
                reads: vec![Arg::Scratch(2)],
                params: vec![
                    ("n", n.into()),
                    ("size", (m * n).into()),
                    ("parts", split.into()),
                    ("stride", stride),
                ],
                grid,
                ..Stage::default()
            };
            kernel.stages.push(self.finish(combine, vec![("partial_sums", "array<f32>")]));
        }
        Some(kernel)
    }

    /// The stage that rewrites `x` as halves.
    fn halves(&self, rows: usize, planes: usize, width: usize) -> Stage {
        let [m, k] = self.x();
        let (x_file, x) = self.x_part();
        let mut stage = Stage {
            name: "halves",
            files: vec![&HALVES, x_file, super::kernel::sums(self.site.caps)],
            constants: vec![("PLANES", planes as f64)],
            reads: vec![Arg::Input(0)],
            writes: vec![Arg::Scratch(0), Arg::Scratch(1)],
            params: vec![
                ("m", m.into()),
                ("k", k.into()),
                ("units", k.div_ceil(UNIT).into()),
                ("pitch", (planes * width).into()),
            ],
            grid: [rows as u32, 1, 1],
            ..Stage::default()
        };
        stage.generated =
            declare(&stage, &[x], &[("halves", "array<vec4<f16>>"), ("row_scale", "array<f32>")]);
        stage
    }
}

fn planes() -> usize {
    std::env::var("UNIMLX_PLANES").ok().and_then(|v| v.parse().ok()).unwrap_or(1)
}

fn choose(m: usize, _rows: usize, matrices: &Matrices) -> Tile {
    if let Ok(v) = std::env::var("UNIMLX_TILE") {
        let v: Vec<usize> = v.split(',').map(|w| w.parse().unwrap()).collect();
        return Tile::new([v[0], v[1]], [v[2], v[3]], v[4], v[5]);
    }
    let f = 16 / matrices.edge;
    match m {
        ..=16 => Tile::new([1, 4], [f, 2 * f], 32, 2),
        ..=32 => Tile::new([1, 4], [2 * f, 2 * f], 32, 2),
        ..=64 => Tile::new([2, 2], [2 * f, 4 * f], 32, 2),
        _ => Tile::new([2, 2], [4 * f, 4 * f], 32, if f == 1 { 2 } else { 1 }),
    }
}

fn splits(tiles: usize, steps: usize, gated: bool) -> usize {
    if gated {
        return 1;
    }
    if let Ok(v) = std::env::var("UNIMLX_SPLIT") {
        return v.parse::<usize>().unwrap().min(steps);
    }
    let _ = (tiles, steps);
    1
}

fn flag(word: &str) -> bool {
    std::env::var("UNIMLX_DBG").is_ok_and(|v| v.split(',').any(|w| w == word))
}

fn local_main(tile: &Tile, matrices: &Matrices) -> String {
    let ([sm, sn], [tm, tn]) = (tile.subgroups, tile.fragments);
    let ([bm, bn], bk, edge) = (tile.size(matrices), tile.bk, matrices.edge);
    let threads = sm * sn * matrices.lanes;
    let xs = (bm * bk / UNIT).div_ceil(threads);
    let ws = (bn * bk / UNIT).div_ceil(threads);
    let fragments = || (0..tm).flat_map(|i| (0..tn).map(move |j| (i, j)));
    let vectors = matrices.vectors && !flag("scalar");
    let (per_cell, pitch) = if vectors { ("/ 4u", "PITCH / 4u") } else { ("", "PITCH") };
    let head = COOP.text;
    let a = head.find("@compute").unwrap();
    let b = head.find("    fetch(first);").unwrap();
    let mut text = head[a..b].to_string();
    fragments().for_each(|(i, j)| text += &format!("    var sum_{i}_{j}: Sum;\n"));
    let prefetch = !flag("direct");
    let fetch = |text: &mut String, step: &str, var: &str| {
        for u in 0..ws { *text += &format!("    {var}w_{u} = fetch_w({u}u, {step});\n"); }
        for u in 0..xs { *text += &format!("    {var}x_{u} = fetch_x({u}u, {step});\n"); }
    };
    let keep = |text: &mut String, buffer: &str| {
        for u in 0..xs { *text += &format!("    keep_x({u}u, {buffer}, x_{u});\n"); }
        for u in 0..ws { *text += &format!("    keep_w({u}u, {buffer}, w_{u});\n"); }
    };
    if prefetch {
        fetch(&mut text, "first", "var ");
        keep(&mut text, "0u");
    }
    text += "    if index == 0u { atomicStore(&overflow, 0u); }\n    workgroupBarrier();\n    var buffer = 0u;\n    for (var step = first; step <= last; step++) {\n";
    if prefetch {
        text += "    let next = min(step + 1u, last);\n";
        fetch(&mut text, "next", "");
    } else {
        fetch(&mut text, "step", "let ");
        keep(&mut text, "buffer");
        text += "    workgroupBarrier();\n";
    }
    for k in (0..bk).step_by(edge) {
        for i in 0..tm {
            text += &format!("    let a_{k}_{i} = coopLoadT<Left>(&tile_x[left({i}u, buffer, {k}u) {per_cell}], {pitch});\n");
        }
        for j in 0..tn {
            text += &format!("    let b_{k}_{j} = coopLoad<Right>(&tile_w[right({j}u, buffer, {k}u) {per_cell}], {pitch});\n");
        }
        for (i, j) in fragments() {
            text += &format!("    sum_{i}_{j} = coopMultiplyAdd(a_{k}_{i}, b_{k}_{j}, sum_{i}_{j});\n");
        }
    }
    if prefetch {
        text += "    if BUFFERS == 1u { workgroupBarrier(); } else { buffer = 1u - buffer; }\n";
        keep(&mut text, "buffer");
        text += "    workgroupBarrier();\n";
    } else if tile.buffers == 1 {
        text += "    workgroupBarrier();\n";
    } else {
        text += "    buffer = 1u - buffer;\n";
    }
    text += "    }\n    workgroupBarrier();\n    if peak > 65504.0 { atomicOr(&overflow, 1u); }\n    workgroupBarrier();\n    inexact = atomicLoad(&overflow) != 0u;\n";
    for (i, j) in fragments() {
        text += &format!("    coopStoreT(sum_{i}_{j}, &staged[subgroup * STAGED / (SM * SN)], EDGE);\n");
        text += &format!("    hand_on({i}u, {j}u);\n");
    }
    text += "}\n";
    text
}

/// The lines of the cooperative kernel that repeat for each fragment and each load, written out: arrays
/// that a loop indexes would not stay in registers everywhere.
fn unrolled(tile: &Tile, matrices: &Matrices, gated: bool, split: bool) -> String {
    let ([sm, sn], [tm, tn]) = (tile.subgroups, tile.fragments);
    let ([bm, bn], bk, edge) = (tile.size(matrices), tile.bk, matrices.edge);
    let threads = sm * sn * matrices.lanes;
    let staged = sm * sn * edge * edge * if gated { 2 } else { 1 };
    let mut text = String::new();
    for (name, value) in [
        ("SM", sm),
        ("SN", sn),
        ("TM", tm),
        ("TN", tn),
        ("BM", bm),
        ("BN", bn),
        ("BK", bk),
        ("EDGE", edge),
        ("LANES", matrices.lanes),
        ("BUFFERS", tile.buffers),
        ("STAGED", staged),
    ] {
        text += &format!("const {name}: u32 = {value}u;\n");
    }
    text += &format!("const GATED: bool = {gated};\n");
    for (name, of, role) in [("Left", "f16", 'A'), ("Right", "f16", 'B'), ("Sum", "f32", 'C')] {
        text += &format!("alias {name} = coop_mat{edge}x{edge}<{of}, {role}>;\n");
    }
    let granule = 1;
    let xs = (bm * bk / UNIT).div_ceil(threads);
    let ws = (bn * bk / UNIT / granule).div_ceil(threads);
    let (all_x, all_w) = (0..xs, 0..ws);
    let fragments = || (0..tm).flat_map(|i| (0..tn).map(move |j| (i, j)));
    fragments().for_each(|(i, j)| text += &format!("var<private> sum_{i}_{j}: Sum;\n"));
    all_x.clone().for_each(|u| text += &format!("var<private> x_{u}: Halves;\n"));
    all_w.clone().for_each(|u| text += &format!("var<private> w_{u}: Raw;\n"));

    text.push_str("fn fetch(step: u32) {\n");
    all_w.clone().for_each(|u| text += &format!("    w_{u} = fetch_w({u}u, step);\n"));
    all_x.clone().for_each(|u| text += &format!("    x_{u} = fetch_x({u}u, step);\n"));
    text.push_str("}\nfn keep(buffer: u32) {\n");
    all_x.for_each(|u| text += &format!("    keep_x({u}u, buffer, x_{u});\n"));
    all_w.for_each(|u| text += &format!("    keep_w({u}u, buffer, w_{u});\n"));

    text.push_str("}\nfn multiply(buffer: u32) {\n");
    let (per_cell, pitch) = if matrices.vectors && !flag("scalar") { ("/ 4u", "PITCH / 4u") } else { ("", "PITCH") };
    for k in (0..bk).step_by(edge) {
        for i in 0..tm {
            text += &format!("    let a_{k}_{i} = coopLoadT<Left>(&tile_x[left({i}u, buffer, {k}u) {per_cell}], {pitch});\n");
        }
        for j in 0..tn {
            text += &format!("    let b_{k}_{j} = coopLoad<Right>(&tile_w[right({j}u, buffer, {k}u) {per_cell}], {pitch});\n");
        }
        for (i, j) in fragments() {
            text += &format!("    sum_{i}_{j} = coopMultiplyAdd(a_{k}_{i}, b_{k}_{j}, sum_{i}_{j});\n");
        }
    }
    text.push_str("}\nfn finish() {\n");
    let _ = 0;
    let outputs = if gated { tn / 2 } else { tn };
    for (i, j) in fragments().filter(|(_, j)| *j < outputs) {
        text += &format!("    coopStoreT(sum_{i}_{j}, &staged[subgroup * STAGED / (SM * SN)], EDGE);\n");
        if gated {
            let up = j + outputs;
            text += &format!("    coopStoreT(sum_{i}_{up}, &staged[subgroup * STAGED / (SM * SN) + EDGE * EDGE], EDGE);\n");
        }
        text += &format!("    hand_on({i}u, {j}u);\n");
    }
    text.push_str("}\n");
    if gated {
        text.push_str("fn deliver2(m: u32, n: u32, gate: f32, up: f32) { emit2(m, n, gate, up); }\nfn deliver(m: u32, n: u32, value: f32) {}\n");
    } else {
        text.push_str("fn deliver2(m: u32, n: u32, gate: f32, up: f32) {}\n");
        text.push_str(match split {
            true => "fn deliver(m: u32, n: u32, value: f32) { partial_sums[(part * params.m + m) * params.n + n] = value; }\n",
            false => "fn deliver(m: u32, n: u32, value: f32) { emit(m, n, value); }\n",
        });
    }
    text
}
