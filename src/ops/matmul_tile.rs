//! How the cooperative kernel divides its work: tiles by size, and the lines of the shader that differ with
//! the tile.

use super::weight::UNIT;
use crate::gpu::Caps;

/// Workgroups that keep a large GPU busy; the interface does not say how many it runs at a time.
const BUSY: usize = 128;

/// Rows of `x` up to which a tile is as high as they are, and k is split until there are workgroups enough.
const FEW_TILES: usize = 64;

/// How a workgroup of the cooperative kernel divides its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tile {
    /// Subgroups along m and n.
    subgroups: [usize; 2],
    /// Fragments of a subgroup along m and n.
    fragments: [usize; 2],
    /// Values of k in workgroup memory at a time.
    pub(super) bk: usize,
}

/// A kind of cooperative matrices.
pub(super) struct Matrices {
    pub(super) edge: usize,
    pub(super) lanes: usize,
    /// Tiles hold vectors rather than scalars.
    pub(super) vectors: bool,
}

impl Matrices {
    /// Those of an adapter.
    pub(super) fn of(caps: &Caps) -> Option<Self> {
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
    const fn new(subgroups: [usize; 2], fragments: [usize; 2], bk: usize) -> Self {
        Self { subgroups, fragments, bk }
    }

    /// Outputs along m and n.
    pub(super) fn size(&self, matrices: &Matrices) -> [usize; 2] {
        std::array::from_fn(|axis| self.subgroups[axis] * self.fragments[axis] * matrices.edge)
    }

    /// Whether each subgroup has a column of a gate and its partner.
    pub(super) fn holds_pairs(&self) -> bool {
        self.fragments[1].is_multiple_of(2)
    }

    /// Whether an adapter has the invocations and the workgroup memory for it.
    fn fits(&self, matrices: &Matrices, caps: &Caps) -> bool {
        let [bm, bn] = self.size(matrices);
        let subgroups = self.subgroups[0] * self.subgroups[1];
        let bytes = (bm + bn) * (self.bk + 8) * 2 + subgroups * matrices.edge.pow(2) * 4;
        bytes <= caps.workgroup_memory as usize && subgroups * matrices.lanes <= caps.workgroup_size as usize
    }

    /// The tile for `m` rows of x and `rows` of a weight, and into how many parts k is split; `spare` is for
    /// weights whose conversion is worth sparing.
    pub(super) fn choose(shape: [usize; 3], spare: bool, matrices: &Matrices, caps: &Caps) -> (Self, usize) {
        let (tile, split) = match matrices.edge {
            8 => Self::of_apple(shape, matrices, caps),
            _ => Self::of_nvidia(shape, spare, matrices, caps),
        };
        if tile.fits(matrices, caps) { (tile, split) } else { (Self::new([2, 2], [2, 2], 32), 1) }
    }

    /// Tiles that cover a result.
    fn count(&self, [m, rows, _]: [usize; 3], matrices: &Matrices) -> usize {
        let [bm, bn] = self.size(matrices);
        m.div_ceil(bm) * rows.div_ceil(bn)
    }

    /// The tile, and k split until there are so many workgroups, in parts of no less than `least`.
    fn split(self, shape: [usize; 3], matrices: &Matrices, groups: usize, least: usize) -> (Self, usize) {
        (self, (groups / self.count(shape, matrices)).clamp(1, shape[2].div_ceil(least)))
    }

    /// Matrices of 16 x 16, 128 bytes to a line.
    ///
    /// Measured on an NVIDIA H200. 64 values of k make whole lines of a 16-bit weight; half as
    /// many nearly halve the rate, unless a tile of 256 x 128 makes up for it, which spares conversions of
    /// bf16. 64 x 32 for each subgroup leaves registers for the next step's loads; two buffers leave room for
    /// one workgroup only. Few rows are a matter of reading the weight once: they are one tile, and k is split
    /// until there are workgroups enough. Small ones: each waits at its barriers for itself, and on an H100 a step
    /// of 8 rows of an 8B model of 4 bits takes 7.0 ms with 64 rows of the weight to a workgroup, 9.5 with 128. Where 128 x 128 makes too few tiles,
    /// a long k is split (adding the parts costs a stage) and a short one takes tiles of half the width. Smaller
    /// memories take 64 x 64.
    fn of_nvidia(shape: [usize; 3], spare: bool, matrices: &Matrices, caps: &Caps) -> (Self, usize) {
        const LARGE: Tile = Tile::new([4, 2], [4, 4], 32);
        const WIDE: Tile = Tile::new([2, 4], [4, 2], 64);
        const HALF: Tile = Tile::new([4, 2], [2, 2], 64);
        let [m, _, k] = shape;
        let cores = caps.cores.unwrap_or(BUSY as u32) as usize;
        let count = |tile: &Tile| tile.count(shape, matrices);
        let enough = |tile: Tile| tile.split(shape, matrices, 8 * cores, 512);
        match m {
            0..=16 => enough(Tile::new([1, 4], [1, 1], 64)),
            17..=32 => enough(Tile::new([1, 4], [2, 2], 64)),
            33..=FEW_TILES => enough(Tile::new([2, 4], [2, 2], 64)),
            // What is one tile anyway takes the same way as what is very many.
            129.. if spare && (count(&LARGE) == 1 || count(&LARGE) >= 4 * BUSY) => (LARGE, 1),
            _ if count(&WIDE) == 1 || 2 * count(&WIDE) > BUSY => (WIDE, 1),
            _ if k >= 4096 => (WIDE, 2),
            _ => (HALF, 1),
        }
    }

    /// Matrices of 8 x 8 on Apple's GPUs, by the number of their cores; reasoned, not measured.
    ///
    /// From M1 to M4 a core has 128 lanes, some 208 KiB of registers and, for a workgroup, 32 KiB of memory
    /// (P. Turner, metal-benchmarks), and multiplies matrices in its ordinary lanes, 256 operations a cycle. M5 has
    /// matrix units besides, which no interface of ours reaches yet. 2.6 TFLOP/s and 68 GB/s of an M1 are 38
    /// operations a byte, 18 TFLOP/s and 546 GB/s of an M4 Max 34, and what lies between is much the same. A tile
    /// of 64 x 64 computes 32 operations a byte of x and weight if no cache helps, and neighbours share the
    /// last level: arithmetic decides, and tiles may stay small.
    ///
    /// - 32 x 32 for each subgroup keeps 32 registers of sums a lane, about half of what each of 24 subgroups on a
    ///   core has, and multiplies 16 times for 8 fragments loaded. 64 x 64 x 32 takes 11 KiB of workgroup memory.
    /// - Where cores are few (M1 to M5, Pro) results are small too, since nobody reads long prompts there: 64 x 32
    ///   makes twice as many workgroups for 8 products in 6 loads. MLX takes the same two, by the same classes.
    /// - Few rows are one tile of 16 or 32 rows, and k is split until each core has four workgroups: 32 on an
    ///   M1, which most weights have unsplit, 320 on an M3 Ultra.
    fn of_apple(shape: [usize; 3], matrices: &Matrices, caps: &Caps) -> (Self, usize) {
        let cores = caps.cores.unwrap_or(10) as usize;
        let enough = |tile: Tile| tile.split(shape, matrices, 4 * cores, 512);
        let high = if cores > 20 { Tile::new([2, 2], [4, 4], 32) } else { Tile::new([2, 2], [4, 2], 32) };
        match shape[0] {
            0..=16 => enough(Tile::new([1, 4], [2, 2], 32)),
            17..=32 => enough(Tile::new([1, 4], [4, 2], 32)),
            33..=FEW_TILES => enough(high),
            _ => (high, 1),
        }
    }
}

/// The lines of the cooperative kernel that repeat for each fragment and each load, written out: arrays
/// that a loop indexes would not stay in registers everywhere.
pub(super) fn unrolled(
    tile: &Tile,
    matrices: &Matrices,
    planes: usize,
    gated: bool,
    combined: bool,
    load: usize,
) -> String {
    let ([sm, sn], [tm, tn]) = (tile.subgroups, tile.fragments);
    let ([bm, bn], bk, edge) = (tile.size(matrices), tile.bk, matrices.edge);
    let threads = sm * sn * matrices.lanes;
    let staged = sm * sn * edge * edge;
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
        ("STAGED", staged),
    ] {
        text += &format!("const {name}: u32 = {value}u;\n");
    }
    text += &format!("const GATED: bool = {gated};\n");
    text += &format!("const PLANES: u32 = {planes}u;\n");
    for (name, of, role) in [("Left", "f16", 'A'), ("Right", "f16", 'B'), ("Sum", "f32", 'C')] {
        text += &format!("alias {name} = coop_mat{edge}x{edge}<{of}, {role}>;\n");
    }
    let xs = (bm * bk / UNIT).div_ceil(threads);
    let ws = (bn * bk / load).div_ceil(threads);
    let (all_x, all_w) = (0..xs, 0..ws);
    let fragments = || (0..tm).flat_map(|i| (0..tn).map(move |j| (i, j)));
    fragments().for_each(|(i, j)| text += &format!("var<private> sum_{i}_{j}: Sum;\n"));
    all_x.clone().for_each(|u| text += &format!("var<private> x_{u}: Values;\n"));
    all_w.clone().for_each(|u| text += &format!("var<private> w_{u}: Raw;\n"));

    text.push_str("fn fetch_all(step: u32) {\n");
    all_w.clone().for_each(|u| text += &format!("    w_{u} = fetch_w({u}u, step);\n"));
    all_x.clone().for_each(|u| text += &format!("    x_{u} = fetch_x({u}u, step);\n"));
    text.push_str("}\nfn keep_all() {\n");
    all_x.for_each(|u| text += &format!("    keep_x({u}u, x_{u});\n"));
    all_w.for_each(|u| text += &format!("    keep_w({u}u, w_{u});\n"));

    text.push_str("}\n");
    text.push_str("fn multiply() {\n");
    let (per_cell, pitch) = if matrices.vectors { ("/ 4u", "PITCH / 4u") } else { ("", "PITCH") };
    for k in (0..bk).step_by(edge) {
        for i in 0..tm {
            text += &format!(
                "    let a_{k}_{i} = coopLoadT<Left>(&tile_x[left({i}u, {k}u) {per_cell}], {pitch});\n"
            );
        }
        for j in 0..tn {
            text += &format!(
                "    let b_{k}_{j} = coopLoad<Right>(&tile_w[right({j}u, {k}u) {per_cell}], {pitch});\n"
            );
        }
        for (i, j) in fragments() {
            text += &format!("    sum_{i}_{j} = coopMultiplyAdd(a_{k}_{i}, b_{k}_{j}, sum_{i}_{j});\n");
        }
    }
    text.push_str("}\nfn finish() {\n");
    let outputs = if gated { tn / 2 } else { tn };
    let place = "&staged[subgroup * STAGED / (SM * SN)]";
    for (i, j) in fragments().filter(|(_, j)| *j < outputs) {
        if gated {
            text += &format!("    coopStoreT(sum_{i}_{j}, {place}, EDGE);\n    keep_gates();\n");
        }
        let last = if gated { j + outputs } else { j };
        text += &format!("    coopStoreT(sum_{i}_{last}, {place}, EDGE);\n");
        text += &format!("    hand_on({i}u, {j}u);\n");
    }
    text.push_str("}\n");
    if gated {
        text.push_str("fn deliver2(m: u32, n: u32, gate: f32, up: f32) { emit_gated(m, n, gate, up); }\nfn deliver(m: u32, n: u32, value: f32) {}\n");
    } else {
        text.push_str("fn deliver2(m: u32, n: u32, gate: f32, up: f32) {}\n");
        text.push_str(match combined {
            true => "fn deliver(m: u32, n: u32, value: f32) { partial_sums[(part * params.m + m) * params.n + n] = value; }\n",
            false => "fn deliver(m: u32, n: u32, value: f32) { emit(m, n, value); }\n",
        });
    }
    text
}

/// Sizes that take each tile, with k split and not; `k` of quantized weights are whole groups.
pub(super) fn sizes(step: usize) -> Vec<[usize; 3]> {
    let (short, long) = (128_usize.next_multiple_of(step) + step, 1024 + step);
    let mut sizes = Vec::new();
    for m in [12, 20, 50] {
        sizes.extend([[m, 37, short], [m, 70, long]]);
    }
    sizes.extend([[66, 100, short], [66, 130, short], [66, 130, 4096 + step], [130, 100, short]]);
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each class of Apple's chips, with what every one of them has.
    #[test]
    fn apple_tiles_fit_and_keep_every_core_busy() {
        for (cores, high) in [(8, [64, 32]), (10, [64, 32]), (20, [64, 32]), (40, [64, 64]), (80, [64, 64])] {
            let caps = crate::gpu::Caps {
                f16: true,
                coop8: true,
                unified: true,
                subgroups: Some((32, 32)),
                workgroup_memory: 32 << 10,
                workgroup_size: 1024,
                cores: Some(cores),
                ..crate::gpu::Caps::BASELINE
            };
            let matrices = Matrices::of(&caps).unwrap();
            let choose = |shape| Tile::choose(shape, false, &matrices, &caps);
            assert_eq!(choose([512, 4096, 4096]).0.size(&matrices), high, "{cores} cores");
            for m in [12, 30, 64, 512] {
                let shape = [m, 4096, 4096];
                let (tile, split) = choose(shape);
                let groups = tile.count(shape, &matrices) * split;
                assert!(
                    tile.fits(&matrices, &caps) && groups >= 2 * cores as usize,
                    "{cores} cores, {m} rows"
                );
            }
        }
    }
}
