//! Attention over a packed cache with all that stands before and after it.

use super::attention::{MAX_HEAD, codes};
use super::few_tokens::{
    ADD_SPLITS, BY_FLOATS, BY_FRAGMENTS, FRAGMENTS, GREATEST, OVER_KEYS, OVER_TILES, QUERIES_HALVES, SUMS,
    Split, WG, Way, exchange, in_subgroup,
};
use super::kernel::{NARROW, fits};
use super::kv_pack::SIGNS;
use super::packed_arrays::{access, tile_access, vectors};
use super::pages::paged;
use super::raw_heads::{Inputs, Own, RawHeads, VALUES, fills, lanes};
use super::weight::DOT_PLANES;
use super::{Attention, FEW, KvPack, Rope, Rotate};
use crate::array::MLXArray;
use crate::cpu::{BASIS_ROWS, PAGE, Packing, rotation_norm};
use crate::dtype::Dtype;
use crate::gpu::Caps;
use crate::op::{Arg, Case, Fill, Kernel, Op, Site, Spec, Stage, Word};
use crate::wgsl::{File, wgsl};
use std::sync::Arc;

static ATTEND_PACKED: File = wgsl!("attend_packed.wgsl");
static COMBINE: File = wgsl!("attend_packed_combine.wgsl");
static WALSH4: File = wgsl!("parts/walsh4.wgsl");
static WALSH8: File = wgsl!("parts/walsh8.wgsl");
static FRESH8: File = wgsl!("parts/fresh8.wgsl");
static SCALES8: File = wgsl!("parts/scales8.wgsl");
static PACKED8: File = wgsl!("parts/packed8.wgsl");
static CODES_FRAGMENTS: File = wgsl!("parts/codes_fragments.wgsl");
static KEYS_INT: File = wgsl!("parts/keys_int.wgsl");
static BY_INTEGERS: File = wgsl!("parts/by_integers.wgsl");
static QUERIES_INT: File = wgsl!("parts/queries_int.wgsl");
static PACKED_FLOATS: File = wgsl!("parts/packed_floats.wgsl");
static STORE_FRESH: File = wgsl!("parts/store_fresh.wgsl");
static CODES8: File = wgsl!("parts/codes8.wgsl");
static RAISED8: File = wgsl!("parts/raised8.wgsl");
static CENTRED_FLOATS: File = wgsl!("parts/centred_floats.wgsl");
static CENTRED_HALVES: File = wgsl!("parts/centred_halves.wgsl");
static BASES8: File = wgsl!("parts/bases8.wgsl");
static NO_BASES8: File = wgsl!("parts/no_bases8.wgsl");

/// `[q [t, heads * d] f32, k [t, kv_heads * d], v like k; or one array of the three, side by side;`
/// `keys [rows, words] u32, values [rows, words] u32, places [t, 2] u32, table [pages] u32,`
/// `inv_freq [rotated / 2] f32, gain of q [d], gain of k [d] if normed, basis [5, kv_heads * d] f32 if there is one] -> [t, heads, d]`
///
/// [`RmsNorm`](super::RmsNorm) of each query and key head if normed, [`Rope`], [`KvPack`] into the cache, which changes,
/// [`Attention`] of rotated queries, and [`Rotate`] back. Tokens of one sequence must stand at consecutive positions,
/// in order.
#[derive(Clone, Debug)]
pub struct AttendPacked {
    /// Heads, scale, window, slots and how keys and values are coded.
    pub attention: Attention,
    /// How heads turn.
    pub rope: Rope,
    /// Whether heads are normed first, with which epsilon.
    pub norm: Option<f32>,
    /// Whether q, k and v are one array.
    pub joined: bool,
    /// Whether there is a basis.
    pub basis: bool,
}

/// What the rounding of queries to 15 bits may do to a result.
const PLANES: f32 = 1.0 / 8192.0;

impl AttendPacked {
    fn inputs(&self) -> Inputs {
        Inputs::new(self.joined, self.norm.is_some())
    }

    fn raw(&self, d: usize) -> RawHeads<'_> {
        RawHeads { attention: &self.attention, rope: &self.rope, norm: self.norm, joined: self.joined, d }
    }

    /// Values of a head.
    fn head_dim(&self, specs: &[Spec]) -> usize {
        let Attention { heads, kv_heads, .. } = self.attention;
        specs[0].axis(1) / if self.joined { heads + 2 * kv_heads } else { heads }
    }

    /// How keys and values are coded.
    fn packing(&self) -> [Packing; 2] {
        let Some(packing) = self.attention.packed else { panic!("{self:?} is not packed") };
        packing
    }

    /// The result, and keys and values as they are afterwards.
    fn formula(&self, x: &[MLXArray]) -> (MLXArray, MLXArray, MLXArray) {
        let at = self.inputs();
        let specs: Vec<Spec> = x.iter().map(|x| x.spec().clone()).collect();
        let (t, d) = (specs[0].axis(2), self.head_dim(&specs));
        let (places, table) = (&x[at.places], &x[at.table]);
        let [q, k, v] = self.raw(d).ready(x);
        let basis = self.basis.then(|| &x[at.rest]);
        let turn = |x: &MLXArray, inverse| {
            MLXArray::apply(Rotate { inverse }, &[x].into_iter().chain(basis).collect::<Vec<_>>())
        };
        let pack = |cache: usize, rows: &MLXArray| {
            let values = cache == at.values;
            let op = KvPack { packing: self.packing()[usize::from(values)], values, head_dim: d };
            let inputs = [&x[cache], rows, places, table].into_iter().chain(basis);
            MLXArray::apply(op, &inputs.collect::<Vec<_>>())
        };
        let q = turn(&q, false);
        let keys = pack(at.keys, &k.reshape(&[t, self.attention.kv_heads * d]));
        let values = pack(at.values, &v);
        let y = MLXArray::apply(self.attention.clone(), &[&q, &keys, &values, places, table]);
        (turn(&y, true), keys, values)
    }

    /// The dispatches. `subgroups`: lanes exchange values directly.
    fn kernel(&self, site: &Site<'_>, way: Way, subgroups: bool) -> Kernel {
        let kv_heads = self.attention.kv_heads;
        let at = self.inputs();
        let (t, d) = (site.inputs[0].axis(2), self.head_dim(site.inputs));
        let visible = self.attention.visible(site.inputs[at.table].size() * PAGE);
        let split = Split::one(way).among_many(&self.attention, site.caps, visible, [t, d]);
        let packing = self.packing();
        let new = fresh(packing[0].groups(d));

        let (common, mut constants) = split.parts(&self.attention, site.caps, subgroups, [t, d], new);
        constants.extend(coding(packing, d, new));
        let files = [&self.files(way, site.caps.f16)[..], &common].concat();
        let words = packing.map(|packing| packing.row_words(kv_heads, d));
        let mut params = split.params(&self.attention);
        params.extend([("norm", norm(d)), ("key_words", words[0].into()), ("value_words", words[1].into())]);
        let vectors = vectors(packing, words, way == Way::Integers);
        let array = |n: usize| match n {
            1 => "array<u32>",
            2 => "array<vec2<u32>>",
            _ => "array<vec4<u32>>",
        };
        let basis = ("bases", "array<vec4<f32>>", Arg::Input(at.rest));
        let own = Own {
            files: &files,
            constants: &constants,
            out: Arg::Scratch(0),
            cache: match way {
                Way::Fragments => ["KeyTiles", "ValueTiles"],
                _ => vectors.map(array),
            },
            reads: if self.basis { &[basis] } else { &[] },
            params,
        };
        let mut stage = Stage { name: "attend_packed", ..self.raw(d).stage(site, own) };
        stage.generated += &match way {
            Way::Fragments => tile_access(packing, kv_heads, d),
            _ => access(packing, vectors, way == Way::Integers),
        };
        stage.grid = split.grid(&self.attention, t);
        Kernel {
            scratch: vec![split.found(&self.attention, [t, d])],
            stages: vec![stage, self.combine([t, d], site.caps, subgroups)],
            rounding: if way == Way::Integers { PLANES } else { 0.0 },
        }
    }

    /// The parts of the first dispatch.
    fn files(&self, way: Way, f16: bool) -> Vec<&'static File> {
        let files: &[&File] =
            &[&ATTEND_PACKED, &PACKED8, &WALSH8, &WALSH4, &FRESH8, &GREATEST, &STORE_FRESH, &CODES8];
        let basis: &[&File] = if self.basis { &[&BASES8] } else { &[&NO_BASES8, &SIGNS] };
        let way: &[&File] = match (way, f16) {
            (Way::Fragments, _) => {
                &[&OVER_TILES, &BY_FRAGMENTS, &QUERIES_HALVES, &CODES_FRAGMENTS, &FRAGMENTS]
            }
            (Way::Integers, _) => {
                &[&OVER_TILES, &KEYS_INT, &BY_INTEGERS, &SUMS, &QUERIES_INT, &DOT_PLANES, &RAISED8, &SCALES8]
            }
            (_, true) => &[&OVER_KEYS, &BY_FLOATS, &SUMS, &PACKED_FLOATS, &SCALES8, &CENTRED_HALVES, &NARROW],
            (_, false) => &[&OVER_KEYS, &BY_FLOATS, &SUMS, &PACKED_FLOATS, &SCALES8, &CENTRED_FLOATS],
        };
        [files, basis, way].concat()
    }

    /// The dispatch that adds up the splits of heads and turns them back.
    fn combine(&self, [t, d]: [usize; 2], caps: &Caps, subgroups: bool) -> Stage {
        let Attention { heads, kv_heads, .. } = self.attention;
        let at = self.inputs();
        let columns = 2 * lanes(d);
        let lanes_file = exchange(subgroups && in_subgroup(caps, columns));
        Stage {
            name: "attend_packed_combine",
            files: vec![&COMBINE, &ADD_SPLITS, &WALSH4, &SIGNS, lanes_file],
            constants: vec![("COLUMNS", columns as f64), ("BASIS", f64::from(u8::from(self.basis)))],
            // Without a basis the frequencies stand in for it, unread.
            reads: vec![Arg::Scratch(0), Arg::Input(if self.basis { at.rest } else { at.inv_freq })],
            writes: vec![Arg::Output],
            baked: true,
            params: vec![
                ("heads", heads.into()),
                ("kv_heads", kv_heads.into()),
                ("vectors", (d / 4).into()),
                ("tokens", t.into()),
                ("norm", norm(d)),
            ],
            grid: [heads as u32, t as u32, 1],
            ..Stage::default()
        }
    }
}

/// Whether kernels take keys and values that are coded so.
fn takes(packing: [Packing; 2]) -> bool {
    let grouped = |packing: &Packing| !packing.affine && packing.group == 8 * VALUES;
    matches!(packing[0].bits, 4 | 8) && packing.iter().all(grouped)
}

/// In tiles of rows, if that is how an adapter reads heads of `d` values fastest.
pub(crate) fn laid_out(packing: [Packing; 2], d: usize, caps: &Caps) -> [Packing; 2] {
    let tiles = takes(packing) && Way::Fragments.suits(caps, true, d);
    if tiles { tiled(packing) } else { packing }
}

fn tiled([keys, values]: [Packing; 2]) -> [Packing; 2] {
    [keys.tiled(false), values.tiled(true)]
}

/// What the rotation of a head multiplies by.
fn norm(d: usize) -> Word {
    rotation_norm(1 << d.trailing_zeros()).into()
}

/// How keys and values of heads of `d` values are coded, with so many new ones in a workgroup.
fn coding([keys, values]: [Packing; 2], d: usize, new: usize) -> [(&'static str, f64); 11] {
    [
        ("WHOLE", 0.0),
        ("NEW", new as f64),
        ("GROUPS", keys.groups(d) as f64),
        ("KEY_HEAD", keys.head_words(d) as f64),
        ("VALUE_HEAD", values.head_words(d) as f64),
        ("KEY_BITS", f64::from(keys.bits)),
        ("KEY_REACH", keys.reach().into()),
        ("KEY_EDGE", keys.edge().into()),
        ("VALUE_BITS", f64::from(values.bits)),
        ("VALUE_REACH", values.reach().into()),
        ("VALUE_EDGE", values.edge().into()),
    ]
}

/// New keys and values of a workgroup: a neighbour's as well if they share a word of scales.
fn fresh(groups: usize) -> usize {
    2 + 2 * (groups % 2)
}

/// Bytes of workgroup memory: angles, a basis, what meets, levels and sums, new codes and scales, queries, exchange between lanes.
fn memory(t: usize, lanes: usize) -> usize {
    let meeting = Split::one(Way::Floats).meeting(lanes, 1, 4);
    let queries = 4 * lanes * (16 + 4) + 16;
    8 * t * lanes * VALUES / 2
        + 16 * (2 * lanes + meeting)
        + 2 * 16 * 32
        + 32 * lanes
        + 64
        + queries
        + 16 * WG
}

impl Op for AttendPacked {
    fn name(&self) -> &'static str {
        "attend_packed"
    }

    fn words(&self) -> Vec<Word> {
        let mut words = self.raw(0).words();
        words.push(Word::U32(self.basis.into()));
        words
    }

    fn meaning(&self, inputs: &[MLXArray]) -> MLXArray {
        self.formula(inputs).0
    }

    fn updates(&self, inputs: &[MLXArray]) -> Vec<(usize, MLXArray)> {
        let (_, keys, values) = self.formula(inputs);
        vec![(self.inputs().keys, keys), (self.inputs().values, values)]
    }

    fn kernels(&self, site: &Site<'_>) -> Vec<Kernel> {
        let (t, d) = (site.inputs[0].axis(2), self.head_dim(site.inputs));
        let packing = self.packing();
        let suits = t <= FEW
            && self.raw(d).suit(MAX_HEAD)
            && takes(packing)
            && fits([self.attention.heads, t, 1])
            // The output is written by another stage, where a scratch buffer takes its place.
            && site.inputs.len() < site.caps.storage_buffers as usize;
        if !suits {
            return Vec::new();
        }
        let room = site.caps.workgroup_memory as usize;
        let in_tiles = packing == tiled(packing);
        let in_rows = packing.iter().all(|packing| packing.tile == [1, 1]);
        let can = |&(way, exchange): &(Way, bool)| {
            let laid_out = if way == Way::Fragments { in_tiles } else { in_rows };
            laid_out
                && memory(t, lanes(d)) + way.memory(lanes(d)) <= room
                && way.suits(site.caps, exchange, d)
        };
        let ways = [(Way::Fragments, true), (Way::Integers, true), (Way::Floats, true), (Way::Floats, false)];
        // The last is the first by way of workgroup memory, for tests on any adapter.
        let ways = ways.into_iter().chain([(Way::Fragments, false)]).filter(can);
        ways.map(|(way, exchange)| self.kernel(site, way, exchange)).collect()
    }
}

/// Sizes worth testing.
pub(super) fn cases() -> Vec<Case> {
    [false, true].into_iter().flat_map(laid_out_cases).collect()
}

/// In tiles of rows or not.
fn laid_out_cases(in_tiles: bool) -> Vec<Case> {
    struct Shape(usize, usize, usize, usize);
    let case = |Shape(heads, kv_heads, d, rows): Shape,
                places: &[[u32; 2]],
                bits: [u32; 2],
                change: &dyn Fn(&mut AttendPacked)| {
        let t = places.len();
        let packed = bits.map(Packing::rotated);
        let packed = if in_tiles { tiled(packed) } else { packed };
        let scale = 1.0 / (d as f32).sqrt();
        let mut op = AttendPacked {
            attention: Attention { heads, kv_heads, scale, window: None, slots: 1, packed: Some(packed) },
            rope: Rope { rotated: d, scale: 1.0, interleaved: false },
            norm: None,
            joined: true,
            basis: true,
        };
        change(&mut op);
        let normal = |dims: &[usize], dtype| Fill::Normal(Spec::new(dims, dtype));
        let mut inputs = fills(op.joined, t, [heads, kv_heads, d]);
        let paged = paged(places, rows);
        op.attention.slots = paged.slots;
        inputs.extend([0, 1].map(|i| codes(packed[i], [paged.rows, kv_heads, d], i)));
        inputs.extend([paged.places, paged.table]);
        inputs.push(normal(&[op.rope.rotated / 2], Dtype::F32));
        if op.norm.is_some() {
            inputs.extend([normal(&[d], Dtype::BF16), normal(&[d], Dtype::F32)]);
        }
        if op.basis {
            inputs.push(normal(&[BASIS_ROWS, kv_heads * d], Dtype::F32));
        }
        let case = Case { op: Arc::new(op), inputs, reduction: rows + d };
        (!in_tiles || matches!(d, 64 | 128)).then_some(case)
    };
    let plain = |_: &mut AttendPacked| ();
    let all = [
        case(Shape(4, 2, 64, 40), &[[21, 0]], [4, 4], &plain),
        case(Shape(8, 2, 128, 70), &[[0, 0]], [8, 8], &plain),
        case(Shape(8, 2, 128, 300), &[[299, 0]], [4, 4], &|op| op.norm = Some(1e-6)),
        case(Shape(16, 8, 128, 500), &[[480, 0]], [8, 4], &plain),
        case(Shape(4, 4, 128, 290), &[[264, 0]], [4, 3], &|op| (op.joined, op.basis) = (false, false)),
        case(Shape(6, 2, 80, 700), &[[603, 0]], [4, 3], &|op| {
            (op.rope.rotated, op.rope.scale) = (32, 1.25);
        }),
        case(Shape(7, 1, 96, 700), &[[699, 0]], [8, 4], &|op| op.attention.window = Some(100)),
        case(Shape(5, 1, 256, 150), &[[131, 0]], [4, 4], &|op| op.rope.interleaved = true),
        case(Shape(2, 1, 32, 20), &[[3, 0]], [8, 5], &|op| op.norm = Some(1e-5)),
        case(Shape(3, 3, 64, 200), &[[150, 0]], [8, 8], &|op| op.basis = false),
        case(Shape(3, 3, 40, 150), &[[140, 0]], [4, 2], &|op| op.rope.rotated = 16),
        case(Shape(2, 2, 192, 40), &[[30, 0]], [4, 4], &plain),
        // Many for each split.
        case(Shape(4, 4, 128, 2900), &(2880..2888).map(|at| [at, 0]).collect::<Vec<_>>(), [4, 4], &plain),
        // Tokens of several sequences, several of one, and both.
        case(Shape(4, 2, 64, 200), &[[8, 100], [0, 0], [49, 50], [33, 150]], [8, 8], &plain),
        case(Shape(4, 1, 128, 300), &[[254, 0], [255, 0], [256, 0], [257, 0], [258, 0]], [4, 4], &|op| {
            (op.attention.window, op.norm) = (Some(130), Some(1e-6));
        }),
        case(Shape(2, 2, 80, 90), &[[60, 0], [61, 0], [0, 70], [1, 70], [2, 70], [62, 0]], [8, 3], &|op| {
            (op.rope.interleaved, op.joined) = (true, false);
        }),
    ];
    all.into_iter().flatten().collect()
}
