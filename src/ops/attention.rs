//! Causal attention with grouped queries over a key-value cache, optionally within a sliding window.

use super::attention_coop::{Tile, unrolled};
use super::kernel::{FLOATS, NARROW, PACK, declare, fits, kind, places, spread, with_sums};
use super::kv_pack::TILED_WORDS;
use super::matmul_tile::Matrices;
use super::packing::{apart, unpack};
use super::pages::{PAGES, all_rows, paged};
use super::weight::floats;
use crate::array::MLXArray;
use crate::cpu::{self, PAGE, Packing};
use crate::dtype::Dtype;
use crate::op::{Arg, Case, CpuKernel, Fill, Kernel, Op, Site, Spec, Stage, Word};
use crate::wgsl::{File, wgsl};
use std::sync::Arc;

static SPLIT: File = wgsl!("attention_split.wgsl");
static COMBINE: File = wgsl!("attention_combine.wgsl");
static BLOCK: File = wgsl!("attention_block.wgsl");
static COOP: File = wgsl!("attention_coop.wgsl");
static ROWS: File = wgsl!("parts/attention_rows.wgsl");
static TWO_PAGES: File = wgsl!("parts/two_pages.wgsl");
static QUERIES: File = wgsl!("parts/attention_queries.wgsl");
static TILES_VECTOR: File = wgsl!("parts/attention_tiles_vector.wgsl");
static TILES_SCALAR: File = wgsl!("parts/attention_tiles_scalar.wgsl");
static ROWS_F16: File = wgsl!("parts/rows_f16.wgsl");
static ROWS_PACKED: File = wgsl!("parts/rows_packed.wgsl");
static WHOLE: File = wgsl!("parts/attention_whole.wgsl");
static PART: File = wgsl!("parts/attention_part.wgsl");
static CACHE_F32: File = wgsl!("parts/cache_f32.wgsl");
static CACHE_F16: File = wgsl!("parts/cache_f16.wgsl");
static CACHE_ANY: File = wgsl!("parts/cache_any.wgsl");
static CACHE_PACKED: File = wgsl!("parts/cache_packed.wgsl");
static UNSCALED: File = wgsl!("parts/unscaled.wgsl");

/// `[q [t, heads, d] f32, k [rows, kv_heads * d], v like k, places [t, 2] u32, table [pages] u32] -> [t, heads, d]`
///
/// A cache holds one or several sequences in pages of 128 rows. Sequences count rows as if each had pages of its own,
/// one sequence's after another's: logical rows. `table[j]` is the page of the cache that logical page `j` is in. The
/// place of a token is its position in its sequence and the logical row at which that begins, the first of a page:
/// with `(p, s) = places[i]` its own key is logical row `s + p`.
///
/// `softmax(scale * q k^T) v` per head; query `i` sees the logical rows `s <= j <= s + p`, within a window of `w`
/// only those with `j + w > s + p`. Heads `h * group .. (h + 1) * group` share the keys of
/// head `h`, `group = heads / kv_heads`.
///
/// Packed keys and values are `[rows, words]` u32 ([`KvPack`](super::KvPack)); then queries come in the keys' basis and
/// the result is in that of the values ([`Rotate`](super::Rotate)).
#[derive(Clone, Debug)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Factor of the scores, usually `1 / sqrt(d)`.
    pub scale: f32,
    /// How many latest keys are seen; all if none.
    pub window: Option<usize>,
    /// Sequences that the table has pages for, each as many: how long one may be decides how its keys are divided
    /// among workgroups.
    pub slots: usize,
    /// How keys and values are coded, if they are not floats.
    pub packed: Option<[Packing; 2]>,
}

/// Greatest head that kernels hold: 64 vectors of 4 values.
pub(super) const MAX_HEAD: usize = 256;
/// Queries up to which the keys are split among workgroups.
const FEW: usize = 8;
/// Rows of a block, where there are more queries.
const BLOCK_ROWS: usize = 64;
/// The fewest workgroups that split keys should keep busy.
const GROUPS: usize = 256;
/// The most keys of a split where the cache is full.
const SPLIT_KEYS: usize = 256;
/// Blocks that keep a large GPU busy; where there are fewer, workgroups share the keys of a block.
const BUSY: usize = 128;
/// The fewest keys that such a workgroup takes where the cache is full. Both are reasoned, not measured.
const PART_KEYS: usize = 1024;

/// What shaders call the bits, the manner, the words side by side and the row's length of packed keys and values.
const CODED: [(&str, &str, &str, &str); 2] = [
    ("KEY_BITS", "KEY_AFFINE", "KEY_EACH", "key_words"),
    ("VALUE_BITS", "VALUE_AFFINE", "VALUE_EACH", "value_words"),
];

/// Scores of keys that are not seen: finite, for shaders are compiled with fast math.
const UNSEEN: f32 = -3.0e38;

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn words(&self) -> Vec<Word> {
        let window = self.window.map_or(Word::U32(0), Word::from);
        let mut words =
            vec![self.heads.into(), self.kv_heads.into(), self.scale.into(), window, self.slots.into()];
        for Packing { bits, group, affine, tile: [rows, each] } in self.packed.into_iter().flatten() {
            let affine = Word::U32(affine.into());
            words.extend([bits.into(), group.into(), affine, rows.into(), each.into()]);
        }
        words
    }

    fn meaning(&self, inputs: &[MLXArray]) -> MLXArray {
        let (q, k, v, places, table) = (&inputs[0], &inputs[1], &inputs[2], &inputs[3], &inputs[4]);
        let [t, heads, d] = *q.dims() else { panic!("attention of {}", q.spec()) };
        let capacity = k.dims()[0];
        let caches = match self.packed {
            Some(packed) => {
                let is = |x: &MLXArray, p: Packing| x.dims() == [capacity, p.row_words(self.kv_heads, d)];
                is(k, packed[0]) && is(v, packed[1])
            }
            None => k.dims() == [capacity, self.kv_heads * d] && v.spec() == k.spec(),
        };
        let fits = heads == self.heads && heads % self.kv_heads == 0 && caches && places.dims() == [t, 2];
        assert!(fits, "{self:?} of {}, {}, {}, {}", q.spec(), k.spec(), v.spec(), places.spec());

        let group = heads / self.kv_heads;
        let (rows, stored) = (table.size() * PAGE, all_rows(table));
        let by_head = |x: &MLXArray, i: usize| {
            let x = match self.packed {
                Some(packed) => {
                    let codes = packed[i].sizes(self.kv_heads, d)[1];
                    let x = apart(packed[i], codes, x).take(&stored, 0);
                    unpack(packed[i], &x, self.kv_heads, d)
                }
                None => x.take(&stored, 0).astype(Dtype::F32).reshape(&[rows, self.kv_heads, d]),
            };
            x.transpose(&[1, 0, 2])
        };
        let q = q.transpose(&[1, 0, 2]).reshape(&[self.kv_heads, group * t, d]);
        let scores = (q.matmul(&by_head(k, 0).t()) * self.scale).reshape(&[self.kv_heads, group, t, rows]);

        let (j, first) = (MLXArray::iota(rows), places.slice(1, 1, 1));
        let last = &first + &places.slice(1, 0, 1);
        let mut seen = &first.less_equal(&j) & &j.less_equal(&last);
        if let Some(window) = self.window {
            let window = MLXArray::scalar_u32(u32::try_from(window).unwrap_or(u32::MAX >> 1));
            seen = &seen & &last.less(&(&j + &window));
        }
        let p = scores.where_(&seen, &MLXArray::scalar(UNSEEN)).softmax(3);
        let y = p.reshape(&[self.kv_heads, group * t, rows]).matmul(&by_head(v, 1));
        y.reshape(&[heads, t, d]).transpose(&[1, 0, 2])
    }

    fn kernels(&self, site: &Site<'_>) -> Vec<Kernel> {
        let [t, _, d] = site.output.dims[..] else { return Vec::new() };
        if d > MAX_HEAD || d == 0 || !fits([self.heads, t, 1]) {
            return Vec::new();
        }
        let split = || with_sums(site.caps, |sums| self.split(site, sums));
        let block = || {
            let plain = Kernel::from(self.block(site));
            self.cooperative(site).into_iter().chain([plain]).collect()
        };
        if t <= FEW { [split(), block()].concat() } else { [block(), split()].concat() }
    }

    fn cpu(&self, inputs: &[Spec]) -> Option<CpuKernel> {
        let Self { heads, kv_heads, scale, window, packed, .. } = *self;
        let d = inputs[0].axis(1);
        if let Some([k, v]) = packed {
            return Some(Box::new(move |x, mut y| {
                let cache = [(k, x[1].as_slice()), (v, x[2].as_slice())];
                let (q, places) = (x[0].as_slice(), (places(&x[3]), x[4].as_slice()));
                cpu::attention_packed(q, cache, places, heads, kv_heads, d, scale, window, y.as_mut_slice());
            }));
        }
        Some(Box::new(move |x, mut y| {
            let (q, k, v) = (x[0].as_slice(), floats(&x[1]), floats(&x[2]));
            let places = (places(&x[3]), x[4].as_slice());
            cpu::attention(q, k, v, places, heads, kv_heads, d, scale, window, y.as_mut_slice());
        }))
    }
}

impl Attention {
    /// How many keys a query may see of so many logical rows.
    pub(super) fn visible(&self, rows: usize) -> usize {
        let capacity = rows / self.slots.max(1);
        self.window.unwrap_or(capacity).min(capacity)
    }

    /// How many workgroups share the keys of a query and head. It follows from how long a sequence may be, for
    /// a recording does not know positions; the kernel divides the keys that there are.
    fn splits(&self, t: usize, rows: usize) -> usize {
        let useful = self.visible(rows).div_ceil(SPLIT_KEYS);
        let wanted = GROUPS.div_ceil(self.heads * t).max(2);
        if useful <= 1 { 1 } else { useful.min(wanted) }
    }

    /// What the kernels that read the cache share.
    fn stage(
        &self,
        site: &Site<'_>,
        own: &[&'static File],
        cooperates: bool,
        out: (&'static str, &'static str),
    ) -> Stage {
        let (cache, d) = (&site.inputs[1], site.output.axis(1));
        let mut stage = Stage { files: own.to_vec(), ..Stage::default() };
        stage.files.extend(match self.packed {
            Some(_) if cooperates => vec![&ROWS_PACKED, &CACHE_PACKED, &TILED_WORDS],
            Some(_) => vec![&CACHE_PACKED, &TILED_WORDS],
            None if cooperates => vec![&ROWS_F16, &NARROW],
            None => vec![&UNSCALED],
        });
        let (mut extra, mut common) = (Vec::new(), None);
        let kind_of_words = match cache.dtype {
            Dtype::U32 => {
                for (i, packing) in self.packed.into_iter().flatten().enumerate() {
                    let (bits, affine, each, words) = CODED[i];
                    stage.constants.push((bits, f64::from(packing.bits)));
                    stage.constants.push((affine, f64::from(u8::from(packing.affine))));
                    extra.push((words, packing.row_words(self.kv_heads, d).into()));
                    stage.constants.push((each, packing.tile[1] as f64));
                    common = Some([("GROUP", packing.group), ("TILE_ROWS", packing.tile[0])]);
                }
                stage.constants.extend(common.into_iter().flatten().map(|(name, n)| (name, n as f64)));
                "array<u32>"
            }
            Dtype::F16 if cooperates => "array<vec4<u32>>",
            Dtype::F32 if d % 4 == 0 => {
                stage.files.push(&CACHE_F32);
                "array<vec4<u32>>"
            }
            Dtype::F16 if d % 4 == 0 => {
                stage.files.push(&CACHE_F16);
                "array<vec2<u32>>"
            }
            dtype => {
                stage.files.extend([&CACHE_ANY, &FLOATS, &PACK]);
                stage.constants.push(("CACHE", kind(dtype)));
                "array<u32>"
            }
        };
        stage.files.push(&PAGES);
        stage.reads = (0..5).map(Arg::Input).collect();
        stage.params = vec![
            ("tokens", site.output.dims[0].into()),
            ("heads", self.heads.into()),
            ("kv_heads", self.kv_heads.into()),
            ("d", d.into()),
            ("chunks", d.div_ceil(4).into()),
            ("rows", (site.inputs[4].size() * PAGE).into()),
            ("window", self.window.map_or(Word::U32(0), Word::from)),
            ("scale", self.scale.into()),
        ];
        stage.params.extend(extra);
        let reads = [
            ("q", if cooperates { "array<vec4<f32>>" } else { "array<f32>" }),
            ("keys", kind_of_words),
            ("values", kind_of_words),
            ("places", "array<vec2<u32>>"),
            ("table", "array<u32>"),
        ];
        stage.generated = declare(&stage, &reads, &[out]);
        stage
    }

    /// Blocks of rows by cooperative matrices, of keys and values that f16 holds. Where blocks are few, workgroups
    /// share their keys.
    fn cooperative(&self, site: &Site<'_>) -> Option<Kernel> {
        let [t, heads, d] = site.output.dims[..] else { return None };
        let cache = &site.inputs[1];
        let matrices = Matrices::of(site.caps)?;
        let tile = Tile::choose(d, &matrices, site.caps)?;
        let blocks = (t * heads / self.kv_heads).div_ceil(tile.height(&matrices));
        let visible = self.visible(site.inputs[4].size() * PAGE);
        let parts = (BUSY / (self.kv_heads * blocks)).min(visible / PART_KEYS).max(1);
        let halves = cache.dtype == Dtype::F16 || self.packed.is_some();
        if !halves || !fits([self.kv_heads, blocks, parts]) {
            return None;
        }
        let out = if parts == 1 { ("y", "array<vec4<f32>>") } else { ("partials", "array<f32>") };
        let mut stage = self.stage(site, &[&COOP, &ROWS, &QUERIES, &TWO_PAGES], true, out);
        stage.files.push(if matrices.vectors { &TILES_VECTOR } else { &TILES_SCALAR });
        stage.files.push(if parts == 1 { &WHOLE } else { &PART });
        stage.constants.extend(self.packed.map(|[keys, _]| ("LOADED", keys.tile[0] as f64)));
        stage.name = "attention_coop";
        stage.generated += &unrolled(&tile, d, &matrices);
        stage.grid = [self.kv_heads as u32, blocks as u32, parts as u32];
        Some(Kernel { rounding: Dtype::F16.epsilon(), ..combined(stage, [t * heads, d], parts) })
    }

    fn block(&self, site: &Site<'_>) -> Stage {
        let [t, heads, d] = site.output.dims[..] else { return Stage::default() };
        let mut stage = self.stage(site, &[&BLOCK, &ROWS, &TWO_PAGES], false, ("y", "array<f32>"));
        stage.constants.push(("SPREAD", d.div_ceil(64) as f64));
        Stage {
            name: "attention_block",
            writes: vec![Arg::Output],
            grid: [self.kv_heads as u32, (t * heads / self.kv_heads).div_ceil(BLOCK_ROWS) as u32, 1],
            ..stage
        }
    }

    fn split(&self, site: &Site<'_>, sums: &'static File) -> Kernel {
        let [t, heads, d] = site.output.dims[..] else { return Kernel::default() };
        let splits = self.splits(t, site.inputs[4].size() * PAGE);
        let mut stage = self.stage(site, &[&SPLIT, sums, &TWO_PAGES], false, ("y", "array<f32>"));
        let lanes = d.div_ceil(4).next_power_of_two();
        stage.constants.extend([("LANES", lanes as f64), ("SPLITS", splits as f64)]);
        stage.name = "attention_split";
        stage.grid = [heads as u32, splits as u32, t as u32];
        combined(stage, [t * heads, d], splits)
    }
}

/// A stage whose workgroups share the keys of each of `rows` rows in so many parts, with one that adds the parts.
fn combined(stage: Stage, [rows, d]: [usize; 2], parts: usize) -> Kernel {
    if parts == 1 {
        return Stage { writes: vec![Arg::Output], ..stage }.into();
    }
    let (grid, stride) = spread(rows);
    let combine = Stage {
        name: "attention_combine",
        files: vec![&COMBINE],
        reads: vec![Arg::Scratch(0)],
        writes: vec![Arg::Output],
        params: vec![("d", d.into()), ("splits", parts.into()), ("rows", rows.into()), ("stride", stride)],
        grid,
        ..Stage::default()
    };
    Kernel {
        scratch: vec![(4 * rows * parts * (d + 2)) as u64],
        stages: vec![Stage { writes: vec![Arg::Scratch(0)], ..stage }, combine],
        rounding: 0.0,
    }
}

/// Sizes worth testing.
pub(super) fn cases() -> Vec<Case> {
    struct Shape(usize, usize, usize, usize);
    let placed = |Shape(heads, kv_heads, d, rows): Shape, places: &[[u32; 2]], window, dtype| {
        let t = places.len();
        let paged = paged(places, rows);
        let cache = Fill::Normal(Spec::new(&[paged.rows, kv_heads * d], dtype));
        Case {
            op: Arc::new(Attention {
                heads,
                kv_heads,
                scale: 1.0 / (d as f32).sqrt(),
                window,
                slots: paged.slots,
                packed: None,
            }),
            inputs: vec![
                Fill::Normal(Spec::new(&[t, heads, d], Dtype::F32)),
                cache.clone(),
                cache,
                paged.places,
                paged.table,
            ],
            reduction: rows + d,
        }
    };
    let case = |shape, positions: &[u32], window, dtype| {
        placed(shape, &positions.iter().map(|&p| [p, 0]).collect::<Vec<_>>(), window, dtype)
    };
    let packed = |shape: Shape, places: &[[u32; 2]], window, packed: [Packing; 2]| {
        let Shape(heads, kv_heads, d, _) = shape;
        let mut case = placed(shape, places, window, Dtype::F32);
        let slots = paged(places, 1).slots;
        let rows = case.inputs[1].spec().dims[0];
        for (i, packing) in packed.into_iter().enumerate() {
            case.inputs[1 + i] = codes(packing, [rows, kv_heads, d], i);
        }
        let scale = 1.0 / (d as f32).sqrt();
        case.op = Arc::new(Attention { heads, kv_heads, scale, window, slots, packed: Some(packed) });
        case
    };
    let [b8, b5, b4, b3, b2] = [8, 5, 4, 3, 2].map(Packing::rotated);
    let block = |from: u32, len: u32| (from..from + len).collect::<Vec<_>>();
    let at = |positions: &[u32]| positions.iter().map(|&p| [p, 0]).collect::<Vec<_>>();
    let mut cases = vec![
        // Decode.
        case(Shape(4, 2, 64, 40), &[21], None, Dtype::F16),
        case(Shape(4, 4, 128, 40), &[0], None, Dtype::F32),
        case(Shape(6, 2, 80, 1500), &[1203], None, Dtype::F16),
        case(Shape(8, 1, 96, 700), &[699], Some(100), Dtype::F16),
        case(Shape(2, 1, 256, 300), &[280], None, Dtype::F32),
        case(Shape(3, 1, 10, 600), &[514, 515, 516], Some(600), Dtype::F32),
        case(Shape(2, 2, 64, 520), &[100], None, Dtype::BF16),
        case(Shape(3, 1, 7, 30), &[11, 29], None, Dtype::F16),
        // Several sequences.
        placed(Shape(4, 2, 64, 40), &[[8, 20], [0, 0], [3, 10], [9, 30]], None, Dtype::F16),
        placed(Shape(2, 1, 80, 2000), &[[900, 1000], [999, 0]], Some(950), Dtype::F32),
        // Prefill.
        case(Shape(4, 2, 64, 128), &block(0, 33), None, Dtype::F16),
        case(Shape(2, 1, 80, 90), &block(7, 70), Some(16), Dtype::F32),
        case(Shape(3, 3, 128, 64), &block(20, 20), None, Dtype::F16),
        case(Shape(2, 2, 256, 40), &block(0, 17), Some(5), Dtype::F16),
        case(Shape(1, 1, 6, 40), &block(2, 9), None, Dtype::BF16),
        placed(Shape(2, 1, 64, 90), &(0..21).map(|p| [p, 60]).collect::<Vec<_>>(), Some(6), Dtype::F16),
    ];
    // Blocks of every head size and of groups of up to 8 heads; several sequences far apart in one block.
    let runs = |runs: &[[u32; 3]]| -> Vec<[u32; 2]> {
        runs.iter().flat_map(|&[at, len, start]| (at..at + len).map(move |p| [p, start])).collect()
    };
    cases.extend([
        case(Shape(7, 1, 64, 150), &block(61, 83), None, Dtype::F16),
        case(Shape(5, 1, 80, 90), &block(31, 50), None, Dtype::F16),
        case(Shape(6, 2, 96, 70), &block(0, 61), Some(40), Dtype::F16),
        case(Shape(8, 1, 128, 130), &block(50, 71), Some(33), Dtype::F16),
        case(Shape(3, 1, 256, 60), &block(3, 53), None, Dtype::F16),
        case(Shape(2, 2, 48, 60), &block(3, 53), None, Dtype::F16),
        placed(Shape(2, 1, 64, 400), &runs(&[[0, 9, 0], [30, 11, 200], [3, 10, 300]]), None, Dtype::F16),
        placed(Shape(4, 1, 128, 300), &runs(&[[90, 9, 200], [60, 12, 0]]), Some(20), Dtype::F16),
    ]);
    // Blocks that share their keys, in each tile, and rows that see nothing of a part.
    for (kv_heads, d) in [(2, 64), (1, 80), (1, 96), (2, 128), (1, 256)] {
        cases.push(case(Shape(2, kv_heads, d, 2050), &block(2031, 10), None, Dtype::F16));
    }
    let apart = runs(&[[1500, 7, 0], [700, 5, 2100]]);
    cases.push(placed(Shape(2, 1, 64, 4200), &apart, Some(2060), Dtype::F16));
    // Packed.
    cases.extend([
        packed(Shape(8, 2, 128, 700), &[[688, 0]], None, [b8, b8]),
        packed(Shape(4, 2, 64, 60), &[[40, 0]], None, [b4, b4]),
        packed(Shape(6, 3, 80, 600), &[[514, 0], [515, 0]], Some(500), [b4, b3]),
        packed(Shape(2, 1, 96, 40), &[[21, 0]], None, [b8, b4]),
        packed(Shape(4, 2, 64, 40), &[[8, 20], [0, 0], [3, 10], [9, 30]], None, [b5, b2]),
        packed(Shape(4, 2, 64, 200), &[[150, 0]], None, [Packing::affine(8, 64); 2]),
        packed(Shape(2, 2, 32, 20), &[[12, 0]], None, [Packing::affine(4, 32); 2]),
        packed(Shape(4, 2, 128, 90), &at(&block(7, 70)), None, [b8, b8]),
        packed(Shape(3, 3, 64, 64), &at(&block(20, 20)), Some(9), [b4, b3]),
        packed(Shape(4, 2, 64, 300), &at(&block(5, 270)), None, [b4.tiled(false), b8.tiled(true)]),
        packed(Shape(4, 2, 128, 90), &at(&block(12, 70)), None, [b8.tiled(false), b3.tiled(true)]),
    ]);
    cases
}

/// A cache of this size with some content.
pub(super) fn codes(packing: Packing, [rows, heads, d]: [usize; 3], seed: usize) -> Fill {
    let words = packing.row_words(heads, d);
    let mut cache = vec![0; rows * words];
    let value = |i: usize| (((i + seed) * (i + 7) % 1009) as f32 / 504.0 - 1.0) * (1 + i / d % 3) as f32;
    let values: Vec<f32> = (0..rows * heads * d).map(value).collect();
    let places: Vec<[u32; 2]> = (0..rows as u32).map(|row| [row, 0]).collect();
    let table: Vec<u32> = (0..rows.div_ceil(PAGE) as u32).collect();
    cpu::kv_pack(packing, &mut cache, &values, &places, &table, cpu::Basis::default(), d);
    Fill::U32(vec![rows, words], cache)
}
