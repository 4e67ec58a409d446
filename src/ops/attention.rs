//! Causal attention with grouped queries over a key-value cache, optionally within a sliding window.

use super::kernel::{FLOATS, PACK, declare, fits, kind, places, spread, with_sums};
use super::weight::floats;
use crate::array::MLXArray;
use crate::cpu;
use crate::dtype::Dtype;
use crate::op::{Arg, Case, CpuKernel, Fill, Kernel, Op, Site, Spec, Stage, Word};
use crate::wgsl::{File, wgsl};
use std::sync::Arc;

static SPLIT: File = wgsl!("attention_split.wgsl");
static COMBINE: File = wgsl!("attention_combine.wgsl");
static BLOCK: File = wgsl!("attention_block.wgsl");
static CACHE_F32: File = wgsl!("parts/cache_f32.wgsl");
static CACHE_F16: File = wgsl!("parts/cache_f16.wgsl");
static CACHE_ANY: File = wgsl!("parts/cache_any.wgsl");

/// `[q [t, heads, d] f32, k [rows, kv_heads * d], v like k, places [t, 2] u32] -> [t, heads, d]`
///
/// A cache holds one or several sequences. The place of a token is its position in its sequence and the
/// cache's row at which that sequence begins: with `(p, s) = places[i]` its own key is row `s + p`.
///
/// `softmax(scale * q k^T) v` per head; query `i` sees the rows `s <= j <= s + p`, within a window of `w`
/// only those with `j + w > s + p`. Heads `h * group .. (h + 1) * group` share the keys of
/// head `h`, `group = heads / kv_heads`.
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
    /// Sequences that the cache has room for, of equal length: how long one may be decides how its keys are
    /// divided among workgroups.
    pub slots: usize,
}

/// Greatest head that the kernels hold: 64 vectors of 4 values.
const MAX_HEAD: usize = 256;
/// Queries up to which the keys are split among workgroups, and that a block takes otherwise.
const FEW: usize = 8;
const BLOCK_ROWS: usize = 16;
/// Workgroups that a split attention should have at least, and keys that a split should have at most where
/// the cache is full.
const GROUPS: usize = 256;
const SPLIT_KEYS: usize = 256;

/// Scores of keys that are not seen: finite, for shaders are compiled with fast math.
const UNSEEN: f32 = -3.0e38;

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn words(&self) -> Vec<Word> {
        let window = self.window.map_or(Word::U32(0), Word::from);
        vec![self.heads.into(), self.kv_heads.into(), self.scale.into(), window, self.slots.into()]
    }

    fn meaning(&self, inputs: &[MLXArray]) -> MLXArray {
        let (q, k, v, places) = (&inputs[0], &inputs[1], &inputs[2], &inputs[3]);
        let [t, heads, d] = *q.dims() else { panic!("attention of {}", q.spec()) };
        let rows = k.dims()[0];
        let fits = heads == self.heads
            && heads % self.kv_heads == 0
            && k.dims() == [rows, self.kv_heads * d]
            && v.spec() == k.spec()
            && places.dims() == [t, 2];
        assert!(fits, "{self:?} of {}, {}, {}, {}", q.spec(), k.spec(), v.spec(), places.spec());

        let group = heads / self.kv_heads;
        let by_head =
            |x: &MLXArray| x.astype(Dtype::F32).reshape(&[rows, self.kv_heads, d]).transpose(&[1, 0, 2]);
        let q = q.transpose(&[1, 0, 2]).reshape(&[self.kv_heads, group * t, d]);
        let scores = (q.matmul(&by_head(k).t()) * self.scale).reshape(&[self.kv_heads, group, t, rows]);

        let (j, first) = (MLXArray::iota(rows), places.slice(1, 1, 1));
        let last = &first + &places.slice(1, 0, 1);
        let mut seen = &first.less_equal(&j) & &j.less_equal(&last);
        if let Some(window) = self.window {
            let window = MLXArray::scalar_u32(u32::try_from(window).unwrap_or(u32::MAX >> 1));
            seen = &seen & &last.less(&(&j + &window));
        }
        let p = scores.where_(&seen, &MLXArray::scalar(UNSEEN)).softmax(3);
        let y = p.reshape(&[self.kv_heads, group * t, rows]).matmul(&by_head(v));
        y.reshape(&[heads, t, d]).transpose(&[1, 0, 2])
    }

    fn kernels(&self, site: &Site<'_>) -> Vec<Kernel> {
        let [t, _, d] = site.output.dims[..] else { return Vec::new() };
        if d > MAX_HEAD || d == 0 || !fits([self.heads, t, 1]) {
            return Vec::new();
        }
        let split = || with_sums(site.caps, |sums| self.split(site, sums));
        let block = || vec![self.block(site).into()];
        if t <= FEW { [split(), block()].concat() } else { [block(), split()].concat() }
    }

    fn cpu(&self, inputs: &[Spec]) -> Option<CpuKernel> {
        let Self { heads, kv_heads, scale, window, .. } = *self;
        let d = inputs[0].axis(1);
        Some(Box::new(move |x, mut y| {
            let (q, k, v, places) = (x[0].as_slice(), floats(&x[1]), floats(&x[2]), places(&x[3]));
            cpu::attention(q, k, v, places, heads, kv_heads, d, scale, window, y.as_mut_slice());
        }))
    }
}

impl Attention {
    /// How many workgroups share the keys of a query and head. It follows from how long a sequence may be, for
    /// a recording does not know positions; the kernel divides the keys that there are.
    fn splits(&self, t: usize, rows: usize) -> usize {
        let capacity = rows / self.slots.max(1);
        let visible = self.window.unwrap_or(capacity).min(capacity);
        let useful = visible.div_ceil(SPLIT_KEYS);
        let wanted = GROUPS.div_ceil(self.heads * t).max(2);
        if useful <= 1 { 1 } else { useful.min(wanted) }
    }

    /// What the kernels that read the cache share.
    fn stage(&self, site: &Site<'_>, own: &[&'static File]) -> Stage {
        let (cache, d) = (&site.inputs[1], site.output.axis(1));
        let mut stage = Stage { files: own.to_vec(), ..Stage::default() };
        let kind_of_words = match cache.dtype {
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
        stage.reads = (0..4).map(Arg::Input).collect();
        stage.params = vec![
            ("tokens", site.output.dims[0].into()),
            ("heads", self.heads.into()),
            ("kv_heads", self.kv_heads.into()),
            ("d", d.into()),
            ("chunks", d.div_ceil(4).into()),
            ("rows", cache.axis(2).into()),
            ("window", self.window.map_or(Word::U32(0), Word::from)),
            ("scale", self.scale.into()),
        ];
        let reads = [
            ("q", "array<f32>"),
            ("keys", kind_of_words),
            ("values", kind_of_words),
            ("places", "array<vec2<u32>>"),
        ];
        stage.generated = declare(&stage, &reads, &[("y", "array<f32>")]);
        stage
    }

    fn block(&self, site: &Site<'_>) -> Stage {
        let rows = site.output.dims[0].div_ceil(BLOCK_ROWS);
        Stage {
            name: "attention_block",
            writes: vec![Arg::Output],
            grid: [self.heads as u32, rows as u32, 1],
            ..self.stage(site, &[&BLOCK])
        }
    }

    fn split(&self, site: &Site<'_>, sums: &'static File) -> Kernel {
        let [t, heads, d] = site.output.dims[..] else { return Kernel::default() };
        let splits = self.splits(t, site.inputs[1].axis(2));
        let mut stage = self.stage(site, &[&SPLIT, sums]);
        let lanes = d.div_ceil(4).next_power_of_two();
        stage.constants.extend([("LANES", lanes as f64), ("SPLITS", splits as f64)]);
        stage.name = "attention_split";
        stage.grid = [heads as u32, splits as u32, t as u32];
        if splits == 1 {
            return Stage { writes: vec![Arg::Output], ..stage }.into();
        }
        let (grid, stride) = spread(t * heads);
        let combine = Stage {
            name: "attention_combine",
            files: vec![&COMBINE],
            reads: vec![Arg::Scratch(0)],
            writes: vec![Arg::Output],
            params: vec![
                ("d", d.into()),
                ("splits", splits.into()),
                ("rows", (t * heads).into()),
                ("stride", stride),
            ],
            grid,
            ..Stage::default()
        };
        Kernel {
            scratch: vec![(4 * t * heads * splits * (d + 2)) as u64],
            stages: vec![Stage { writes: vec![Arg::Scratch(0)], ..stage }, combine],
            rounding: 0.0,
        }
    }
}

/// Sizes worth testing.
pub(super) fn cases() -> Vec<Case> {
    struct Shape(usize, usize, usize, usize);
    let placed = |Shape(heads, kv_heads, d, rows): Shape, places: &[[u32; 2]], slots, window, dtype| {
        let t = places.len();
        let cache = Fill::Normal(Spec::new(&[rows, kv_heads * d], dtype));
        Case {
            op: Arc::new(Attention { heads, kv_heads, scale: 1.0 / (d as f32).sqrt(), window, slots }),
            inputs: vec![
                Fill::Normal(Spec::new(&[t, heads, d], Dtype::F32)),
                cache.clone(),
                cache,
                Fill::U32(vec![t, 2], places.concat()),
            ],
            reduction: rows + d,
        }
    };
    let case = |shape, positions: &[u32], window, dtype| {
        placed(shape, &positions.iter().map(|&p| [p, 0]).collect::<Vec<_>>(), 1, window, dtype)
    };
    let block = |from: u32, len: u32| (from..from + len).collect::<Vec<_>>();
    vec![
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
        placed(Shape(4, 2, 64, 40), &[[8, 20], [0, 0], [3, 10], [9, 30]], 4, None, Dtype::F16),
        placed(Shape(2, 1, 80, 2000), &[[900, 1000], [999, 0]], 2, Some(950), Dtype::F32),
        // Prefill.
        case(Shape(4, 2, 64, 128), &block(0, 33), None, Dtype::F16),
        case(Shape(2, 1, 80, 90), &block(7, 70), Some(16), Dtype::F32),
        case(Shape(3, 3, 128, 64), &block(20, 20), None, Dtype::F16),
        case(Shape(2, 2, 256, 40), &block(0, 17), Some(5), Dtype::F16),
        case(Shape(1, 1, 6, 40), &block(2, 9), None, Dtype::BF16),
        placed(Shape(2, 1, 64, 90), &(0..21).map(|p| [p, 60]).collect::<Vec<_>>(), 3, Some(6), Dtype::F16),
    ]
}
