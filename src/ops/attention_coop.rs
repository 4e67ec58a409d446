//! How the cooperative kernel of attention divides its work, and the lines of its shader that repeat for
//! each fragment and each load.

use super::matmul_tile::Matrices;
use crate::gpu::Caps;
use std::fmt::Write;

/// How a workgroup divides its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tile {
    /// Subgroups, each with rows of its own.
    subgroups: usize,
    /// Fragments along the rows of a subgroup.
    rows: usize,
    /// Keys in workgroup memory at a time.
    keys: usize,
    /// Scores of a row that leave the matrices at a time.
    columns: usize,
}

impl Tile {
    /// Rows of a workgroup.
    pub(super) fn height(&self, matrices: &Matrices) -> usize {
        self.subgroups * self.rows * matrices.edge
    }

    fn fits(&self, d: usize, matrices: &Matrices, caps: &Caps) -> bool {
        let height = self.height(matrices);
        let pitch = self.columns + 8;
        let bytes = 2 * self.keys * (d + 8) * 2 + height * pitch * (2 + 4) + self.subgroups * 16;
        bytes <= caps.workgroup_memory as usize
            && self.subgroups * matrices.lanes <= caps.workgroup_size as usize
    }

    /// The tile for heads of `d` values; none if nothing fits.
    ///
    /// Measured on an NVIDIA H100, 512 queries at 16384 keys, TFLOP/s. What a workgroup does between two barriers
    /// decides: for heads of 128, 8 subgroups and 32 keys reach 158, 16 keys 113; 4 subgroups with 32 keys 84 and
    /// with 64 keys 102, for they read all keys twice as often. Two fragments of rows for each subgroup leave too
    /// few registers (86). Heads of 64 gain by 64 keys (116; 32 keys: 98). Those of 256 have room for 16 keys (150);
    /// other shapes were only tried on a GPU that had not warmed up, which tells nothing.
    /// Smaller memories take what fits; on Apple's GPUs 4 subgroups are the shape that MLX uses.
    pub(super) fn choose(d: usize, matrices: &Matrices, caps: &Caps) -> Option<Self> {
        if !d.is_multiple_of(matrices.edge.max(8)) {
            return None;
        }
        let tile = |subgroups, keys, columns| Self { subgroups, rows: 16 / matrices.edge, keys, columns };
        let best = match d {
            _ if matrices.edge == 8 => tile(4, 32, 16),
            ..=64 => tile(8, 64, 16),
            65..=128 => tile(8, 32, 32),
            _ => tile(8, 16, 16),
        };
        let smaller = [tile(8, 32, 16), tile(4, 32, 16), tile(4, 16, 16), tile(2, 16, 16)];
        [best].into_iter().chain(smaller).find(|tile| tile.fits(d, matrices, caps))
    }
}

/// The lines that differ with the tile, written out: arrays that a loop indexes would not stay in registers
/// everywhere.
pub(super) fn unrolled(tile: &Tile, d: usize, matrices: &Matrices) -> String {
    let edge = matrices.edge;
    let height = tile.rows * edge;
    let mut text = String::new();
    for (name, value) in [
        ("D", d),
        ("SUBGROUPS", tile.subgroups),
        ("ROWS", height),
        ("KEYS", tile.keys),
        ("COLUMNS", tile.columns),
        ("LANES", matrices.lanes),
    ] {
        let _ = writeln!(text, "const {name}: u32 = {value}u;");
    }
    for (name, of, role) in [("Left", "f16", 'A'), ("Right", "f16", 'B'), ("Sum", "f32", 'C')] {
        let _ = writeln!(text, "alias {name} = coop_mat{edge}x{edge}<{of}, {role}>;");
    }
    let cell = if matrices.vectors { "/ 4u" } else { "" };
    let (rows, parts) = (0..tile.rows, tile.keys / tile.columns);
    let across = tile.columns / edge;
    let depth = d / edge;
    let keys = tile.keys / edge;
    let vectors = tile.columns * height / matrices.lanes / 4;
    let loads = (tile.keys * d / 8).div_ceil(tile.subgroups * matrices.lanes);
    let each = |range: std::ops::Range<usize>, line: &dyn Fn(usize) -> String| -> String {
        range.map(line).collect()
    };
    // A fragment in tiles of keys and values, and in the subgroup's part of weights and scores.
    let in_tile = |key: usize, c: usize| format!("({key}u * PITCH + {}u) {cell}", c * edge);
    let own = |i: usize, c: usize, pitch: &str| {
        format!("((subgroup * ROWS + {}u) * {pitch} + {}u) {cell}", i * edge, c * edge)
    };
    // Columns of the head, as many at a time as the part for weights and scores is wide.
    let pieces: Vec<_> = (0..depth).step_by(across).map(|c| c..(c + across).min(depth)).collect();

    for i in rows.clone() {
        text +=
            &each(0..depth, &|c| format!("var<private> q_{i}_{c}: Left;\nvar<private> o_{i}_{c}: Sum;\n"));
        text += &each(0..keys, &|k| format!("var<private> s_{i}_{k}: Sum;\n"));
    }
    text += &each(0..vectors, &|v| format!("var<private> x_{v}: vec4<f32>;\n"));
    text += &each(0..loads, &|u| format!("var<private> k_{u}: Raw;\nvar<private> v_{u}: Raw;\n"));

    for (kind, letter, tile) in [("key", 'k', ""), ("value", 'v', "tile: u32, ")] {
        let handed = tile.replace(": u32", "");
        let _ = writeln!(text, "fn fetch_{kind}s(tile: u32, index: u32) {{");
        text += &each(0..loads, &|u| format!("    {letter}_{u} = {kind}_at({u}u, tile, index);\n"));
        let _ = writeln!(text, "}}\nfn keep_{kind}s({tile}index: u32) {{");
        text += &each(0..loads, &|u| format!("    keep_{kind}({u}u, {handed}index, {letter}_{u});\n"));
        text.push_str("}\n");
    }

    text.push_str("fn load_queries() {\n");
    for piece in &pieces {
        let _ = writeln!(text, "    stage_queries({}u);", piece.start * edge);
        for i in rows.clone() {
            text += &each(piece.clone(), &|c| {
                let at = own(i, c - piece.start, "WEIGHT_PITCH");
                format!("    q_{i}_{c} = coopLoadT<Left>(&tile_p[{at}], WEIGHT_PITCH {cell});\n")
            });
        }
    }

    text.push_str("}\nfn score() {\n");
    for k in 0..keys {
        text += &each(rows.clone(), &|i| format!("    s_{i}_{k} = Sum();\n"));
        for c in 0..depth {
            let at = in_tile(k * edge, c);
            let _ = writeln!(text, "    let b_{k}_{c} = coopLoad<Right>(&tile_k[{at}], PITCH {cell});");
            text += &each(rows.clone(), &|i| {
                format!("    s_{i}_{k} = coopMultiplyAdd(q_{i}_{c}, b_{k}_{c}, s_{i}_{k});\n")
            });
        }
    }

    text.push_str("}\nfn take(first: u32, partly: bool) {\n");
    text += &each(0..vectors, &|v| format!("    x_{v} = taken({v}u, first, partly);\n"));
    text.push_str("}\nfn greatest() -> f32 {\n    var most = x_0;\n");
    text += &each(1..vectors, &|v| format!("    most = max(most, x_{v});\n"));
    text.push_str("    return max(max(most.x, most.y), max(most.z, most.w));\n}\nfn weigh() {\n");
    text += &each(0..vectors, &|v| format!("    weighed({v}u, x_{v});\n"));

    text.push_str("}\nfn gather(tile: u32, partly: bool) {\n");
    for part in 0..parts {
        for (i, k) in rows.clone().flat_map(|i| (0..across).map(move |k| (i, k))) {
            let _ = writeln!(
                text,
                "    coopStoreT(s_{i}_{}, &staged[{}], SCORE_PITCH {cell});",
                part * across + k,
                own(i, k, "SCORE_PITCH")
            );
        }
        let _ = writeln!(text, "    soften(tile + {}u, partly);", part * tile.columns);
        for k in 0..across {
            text += &each(rows.clone(), &|i| {
                let at = own(i, k, "WEIGHT_PITCH");
                format!("    let p_{part}_{i}_{k} = coopLoadT<Left>(&tile_p[{at}], WEIGHT_PITCH {cell});\n")
            });
            for c in 0..depth {
                let at = in_tile(part * tile.columns + k * edge, c);
                let name = format!("w_{part}_{k}_{c}");
                let _ = writeln!(text, "    let {name} = coopLoadT<Right>(&tile_v[{at}], PITCH {cell});");
                text += &each(rows.clone(), &|i| {
                    format!("    o_{i}_{c} = coopMultiplyAdd(p_{part}_{i}_{k}, {name}, o_{i}_{c});\n")
                });
            }
        }
        if part + 1 < parts {
            text.push_str("    subgroupBarrier();\n");
        }
    }

    let stage = |text: &mut String, i: usize, c: usize, start: usize| {
        let at = own(i, c - start, "SCORE_PITCH");
        let _ = writeln!(text, "    coopStoreT(o_{i}_{c}, &staged[{at}], SCORE_PITCH {cell});");
    };
    let cells = |piece: &std::ops::Range<usize>| {
        let piece = piece.clone();
        rows.clone().flat_map(move |i| piece.clone().map(move |c| (i, c)))
    };
    text.push_str("}\nfn rescale() {\n");
    for piece in &pieces {
        cells(piece).for_each(|(i, c)| stage(&mut text, i, c, piece.start));
        text.push_str("    decay_staged();\n");
        for (i, c) in cells(piece) {
            let at = own(i, c - piece.start, "SCORE_PITCH");
            let _ = writeln!(text, "    o_{i}_{c} = coopLoadT<Sum>(&staged[{at}], SCORE_PITCH {cell});");
        }
        text.push_str("    subgroupBarrier();\n");
    }
    text.push_str("}\nfn finish() {\n");
    for piece in &pieces {
        cells(piece).for_each(|(i, c)| stage(&mut text, i, c, piece.start));
        let _ = writeln!(text, "    hand_on({}u);", piece.start * edge);
    }
    text.push_str("}\n");
    text
}
