//! Attention with all that stands before it: norms of heads, rotation, writing the cache.

use super::attention::MAX_HEAD;
use super::few_tokens::{
    ADD_SPLITS, BY_FLOATS, BY_FRAGMENTS, FRAGMENTS, GREATEST, OVER_KEYS, OVER_TILES, QUERIES_HALVES, SUMS,
    Split, WG, Way, exchange, in_subgroup,
};
use super::kernel::fits;
use super::pages::paged;
use super::raw_heads::{Inputs, Own, RawHeads, VALUES, fills, lanes};
use super::{Attention, FEW, KvWrite, Rope};
use crate::array::MLXArray;
use crate::cpu::PAGE;
use crate::dtype::Dtype;
use crate::op::{Arg, Case, Fill, Kernel, Op, Site, Spec, Stage, Word};
use crate::wgsl::{File, wgsl};
use std::sync::Arc;

static ATTEND: File = wgsl!("attend.wgsl");
static READY: File = wgsl!("attend_ready.wgsl");
static COMBINE: File = wgsl!("attend_combine.wgsl");
static CACHE8_F16: File = wgsl!("parts/cache8_f16.wgsl");
static CACHE8_F32: File = wgsl!("parts/cache8_f32.wgsl");
static FLOATS8: File = wgsl!("parts/floats8.wgsl");
static HALVES_FRAGMENTS: File = wgsl!("parts/halves_fragments.wgsl");

/// `[q [t, heads * d] f32, k [t, kv_heads * d], v like k; or one array of the three, side by side;`
/// `keys [rows, kv_heads * d], values like keys, places [t, 2] u32, table [pages] u32,`
/// `inv_freq [rotated / 2] f32, gain of q [d], gain of k [d] if normed] -> [t, heads, d]`
///
/// [`RmsNorm`](super::RmsNorm) of each query and key head if normed, [`Rope`], [`KvWrite`] into the cache, which changes, then
/// [`Attention`]. Tokens of one sequence must stand at consecutive positions, in order.
#[derive(Clone, Debug)]
pub struct Attend {
    /// Heads, scale, window and slots.
    pub attention: Attention,
    /// How heads turn.
    pub rope: Rope,
    /// Whether heads are normed first, with which epsilon.
    pub norm: Option<f32>,
    /// Whether q, k and v are one array.
    pub joined: bool,
}

/// A key and a value of a token.
const NEW: usize = 2;
/// Keys that one workgroup takes sooner than several and a second dispatch.
const FEW_KEYS: usize = 256;
/// Keys of heads of 64 that one large workgroup for each query head takes sooner, and its invocations: on an NVIDIA H100
/// at 600 keys that is worth 0.8% of a step of a model of 1B.
const SOME_KEYS: usize = 1024;
const LARGE: usize = 512;

/// Sizes that everything follows from.
struct Shape {
    t: usize,
    d: usize,
    /// Logical rows.
    rows: usize,
}

impl Attend {
    fn inputs(&self) -> Inputs {
        Inputs::new(self.joined, self.norm.is_some())
    }

    fn shape(&self, specs: &[Spec]) -> Shape {
        let cache = &specs[self.inputs().keys];
        let rows = specs[self.inputs().table].size() * PAGE;
        Shape { t: specs[0].axis(2), d: cache.axis(1) / self.attention.kv_heads, rows }
    }

    fn raw(&self, d: usize) -> RawHeads<'_> {
        RawHeads { attention: &self.attention, rope: &self.rope, norm: self.norm, joined: self.joined, d }
    }

    /// The result, and keys and values as they are afterwards.
    fn formula(&self, x: &[MLXArray]) -> (MLXArray, MLXArray, MLXArray) {
        let at = self.inputs();
        let specs: Vec<Spec> = x.iter().map(|x| x.spec().clone()).collect();
        let Shape { t, d, .. } = self.shape(&specs);
        let (places, table) = (&x[at.places], &x[at.table]);
        let [q, k, v] = self.raw(d).ready(x);
        let k = k.reshape(&[t, self.attention.kv_heads * d]);
        let keys = MLXArray::apply(KvWrite, &[&x[at.keys], &k, places, table]);
        let values = MLXArray::apply(KvWrite, &[&x[at.values], &v, places, table]);
        let y = MLXArray::apply(self.attention.clone(), &[&q, &keys, &values, places, table]);
        (y, keys, values)
    }

    /// A stage of raw heads over this cache. `own` are its files and constants, `out` is what it writes beside the
    /// cache, `params` are parameters of its own.
    fn stage(
        &self,
        site: &Site<'_>,
        (own, constants): (&[&'static File], &[(&'static str, f64)]),
        out: Arg,
        params: Vec<(&'static str, Word)>,
    ) -> Stage {
        let (file, words) = match site.inputs[self.inputs().keys].dtype {
            Dtype::F16 => (&CACHE8_F16, "array<vec4<u32>>"),
            _ => (&CACHE8_F32, "array<vec4<f32>>"),
        };
        let files = &[own, &[file]].concat();
        let own = Own { files, constants, out, cache: [words; 2], reads: &[], params };
        self.raw(self.shape(site.inputs).d).stage(site, own)
    }

    /// Many tokens: one dispatch makes their heads ready and fills the cache, then the attention is as without.
    fn many(&self, site: &Site<'_>, subgroups: bool) -> Vec<Kernel> {
        let lanes_file = exchange(subgroups);
        let Attention { heads, kv_heads, .. } = self.attention;
        let at = self.inputs();
        let Shape { t, d, .. } = self.shape(site.inputs);
        let constants = [("ANGLES", (lanes(d) * VALUES / 2) as f64)];
        let ready = Stage {
            name: "attend_ready",
            grid: [(heads + 2 * kv_heads).div_ceil(WG / lanes(d)) as u32, t as u32, 1],
            ..self.stage(site, (&[&READY, lanes_file], &constants), Arg::Scratch(0), Vec::new())
        };
        let queries = Spec::new(&[t, heads, d], Dtype::F32);
        let inputs = [at.keys, at.values, at.places, at.table].map(|input| site.inputs[input].clone());
        let inputs = [&[queries.clone()][..], &inputs].concat();
        let of_ready = |arg: &mut Arg| {
            *arg = match *arg {
                Arg::Input(0) => Arg::Scratch(0),
                Arg::Input(i) => Arg::Input(at.keys + i - 1),
                Arg::Scratch(i) => Arg::Scratch(i + 1),
                other => other,
            };
        };
        let with_ready = |mut kernel: Kernel| {
            kernel.scratch.insert(0, queries.bytes() as u64);
            for stage in &mut kernel.stages {
                stage.reads.iter_mut().chain(&mut stage.writes).for_each(of_ready);
            }
            kernel.stages.insert(0, ready.clone());
            kernel
        };
        let site = Site { inputs: &inputs, ..*site };
        self.attention.kernels(&site).into_iter().map(with_ready).collect()
    }

    /// The dispatches with keys shared out so; lanes exchange values directly if `subgroups`.
    fn kernel(&self, site: &Site<'_>, split: Split, subgroups: bool) -> Kernel {
        let heads = self.attention.heads;
        let Shape { t, d, .. } = self.shape(site.inputs);
        let (common, constants) = split.parts(&self.attention, site.caps, subgroups, [t, d], NEW);
        let out = if split.count == 1 { Arg::Output } else { Arg::Scratch(0) };
        let way: &[&File] = match split.way {
            Way::Fragments => {
                &[&OVER_TILES, &BY_FRAGMENTS, &QUERIES_HALVES, &HALVES_FRAGMENTS, &FRAGMENTS, &GREATEST]
            }
            _ => &[&OVER_KEYS, &BY_FLOATS, &SUMS, &FLOATS8],
        };
        let files = [&[&ATTEND], way, &common[..]].concat();
        let mut stage = self.stage(site, (&files, &constants), out, split.params(&self.attention));
        stage.name = "attend";
        stage.grid = split.grid(&self.attention, t);
        if split.count == 1 {
            return stage.into();
        }
        let combine = Stage {
            name: "attend_combine",
            files: vec![&COMBINE, &ADD_SPLITS],
            constants: vec![("COLUMNS", (2 * lanes(d)) as f64)],
            reads: vec![Arg::Scratch(0)],
            writes: vec![Arg::Output],
            baked: true,
            params: vec![("heads", heads.into()), ("vectors", (d / 4).into()), ("tokens", t.into())],
            grid: [heads as u32, t as u32, 1],
            ..Stage::default()
        };
        Kernel {
            scratch: vec![split.found(&self.attention, [t, d])],
            stages: vec![stage, combine],
            ..Kernel::default()
        }
    }

    /// How keys and heads are shared out, from how long a sequence may be, for a recording does not know positions; the
    /// kernel divides the keys that there are.
    fn split(&self, site: &Site<'_>, way: Way, subgroups: bool) -> Split {
        let Shape { t, d, rows, .. } = self.shape(site.inputs);
        let visible = self.attention.visible(rows);
        let one = Split::one(way);
        if visible <= FEW_KEYS {
            return one;
        }
        // Measured on discrete GPUs; heads of 128 take longer so.
        let large = Split { wg: LARGE, heads: 1, ..Split::one(Way::Floats) };
        let parts_add_up = large.merged(site.caps, lanes(d), subgroups) > 1;
        let suits = t == 1 && lanes(d) == 8 && parts_add_up && !site.caps.unified;
        let fits = LARGE <= site.caps.workgroup_size as usize
            && self.memory(site, large, subgroups) <= site.caps.workgroup_memory as usize;
        if visible <= SOME_KEYS && suits && fits {
            return large;
        }
        one.among_many(&self.attention, site.caps, visible, [t, d])
    }

    /// Bytes of workgroup memory: angles, what meets, maxima and sums, exchange between lanes.
    fn memory(&self, site: &Site<'_>, split: Split, subgroups: bool) -> usize {
        let Shape { t, d, .. } = self.shape(site.inputs);
        let lanes = lanes(d);
        let meeting = split.meeting(lanes, split.merged(site.caps, lanes, subgroups), NEW);
        let exchange = if subgroups { 0 } else { 16 * split.wg };
        8 * t * lanes * VALUES / 2 + 16 * meeting + 2 * 16 * 32 + exchange + split.way.memory(lanes)
    }
}

impl Op for Attend {
    fn name(&self) -> &'static str {
        "attend"
    }

    fn words(&self) -> Vec<Word> {
        self.raw(0).words()
    }

    fn meaning(&self, inputs: &[MLXArray]) -> MLXArray {
        self.formula(inputs).0
    }

    fn updates(&self, inputs: &[MLXArray]) -> Vec<(usize, MLXArray)> {
        let (_, keys, values) = self.formula(inputs);
        vec![(self.inputs().keys, keys), (self.inputs().values, values)]
    }

    fn kernels(&self, site: &Site<'_>) -> Vec<Kernel> {
        let Shape { t, d, .. } = self.shape(site.inputs);
        let cache = site.inputs[self.inputs().keys].dtype;
        let groups = self.attention.heads;
        let suits =
            self.raw(d).suit(MAX_HEAD) && matches!(cache, Dtype::F16 | Dtype::F32) && fits([groups, t, 1]);
        // The output takes the place of a scratch buffer where there is one.
        let bindings = site.inputs.len() + 1;
        if !suits || bindings > site.caps.storage_buffers as usize {
            return Vec::new();
        }
        if t > FEW {
            let subgroups = in_subgroup(site.caps, lanes(d));
            let ways = if subgroups { &[true, false][..] } else { &[false] };
            return ways.iter().flat_map(|&way| self.many(site, way)).collect();
        }
        let room = site.caps.workgroup_memory as usize;
        let can = |&(way, exchange): &(Way, bool)| {
            way.suits(site.caps, exchange, d) && (cache == Dtype::F16 || way == Way::Floats)
        };
        let kernel = |(way, exchange): (Way, bool)| {
            let split = self.split(site, way, exchange);
            (self.memory(site, split, exchange) <= room).then(|| self.kernel(site, split, exchange))
        };
        // The last is the first by way of workgroup memory, for tests on any adapter.
        let ways =
            [(Way::Fragments, true), (Way::Floats, true), (Way::Floats, false), (Way::Fragments, false)];
        ways.into_iter().filter(can).filter_map(kernel).collect()
    }
}

/// Sizes worth testing.
pub(super) fn cases() -> Vec<Case> {
    struct Shape(usize, usize, usize, usize);
    let case =
        |Shape(heads, kv_heads, d, rows): Shape, places: &[[u32; 2]], dtype, change: &dyn Fn(&mut Attend)| {
            let t = places.len();
            let mut op = Attend {
                attention: Attention {
                    heads,
                    kv_heads,
                    scale: 1.0 / (d as f32).sqrt(),
                    window: None,
                    slots: 1,
                    packed: None,
                },
                rope: Rope { rotated: d, scale: 1.0, interleaved: false },
                norm: None,
                joined: true,
            };
            change(&mut op);
            let normal = |dims: &[usize], dtype| Fill::Normal(Spec::new(dims, dtype));
            let mut inputs = fills(op.joined, t, [heads, kv_heads, d]);
            let paged = paged(places, rows);
            op.attention.slots = paged.slots;
            let cache = normal(&[paged.rows, kv_heads * d], dtype);
            inputs.extend([cache.clone(), cache, paged.places, paged.table]);
            inputs.push(normal(&[op.rope.rotated / 2], Dtype::F32));
            if op.norm.is_some() {
                inputs.extend([normal(&[d], Dtype::BF16), normal(&[d], Dtype::F32)]);
            }
            Case { op: Arc::new(op), inputs, reduction: rows + d }
        };
    let plain = |_: &mut Attend| ();
    let run = |from: u32, len: u32, start| (from..from + len).map(|at| [at, start]).collect::<Vec<_>>();
    vec![
        case(Shape(4, 2, 64, 40), &[[21, 0]], Dtype::F16, &plain),
        case(Shape(8, 2, 128, 70), &[[0, 0]], Dtype::F16, &plain),
        case(Shape(8, 2, 128, 300), &[[299, 0]], Dtype::F16, &|op| op.norm = Some(1e-6)),
        case(Shape(4, 4, 128, 90), &[[64, 0]], Dtype::F32, &|op| op.joined = false),
        case(Shape(6, 2, 80, 700), &[[603, 0]], Dtype::F16, &|op| {
            (op.rope.rotated, op.rope.scale) = (32, 1.25);
        }),
        case(Shape(7, 1, 96, 700), &[[699, 0]], Dtype::F16, &|op| op.attention.window = Some(100)),
        // Many for each split.
        case(Shape(4, 4, 128, 1500), &run(1470, 8, 0), Dtype::F16, &plain),
        // One large workgroup for each query head.
        case(Shape(8, 2, 64, 900), &[[870, 0]], Dtype::F16, &plain),
        case(Shape(6, 2, 48, 500), &[[490, 0]], Dtype::F32, &|op| {
            (op.attention.window, op.norm) = (Some(300), Some(1e-5));
        }),
        case(Shape(5, 1, 256, 150), &[[131, 0]], Dtype::F32, &|op| op.rope.interleaved = true),
        case(Shape(2, 1, 32, 20), &[[3, 0]], Dtype::F32, &|op| op.norm = Some(1e-5)),
        case(Shape(2, 1, 16, 9), &[[8, 0]], Dtype::F16, &plain),
        // Tokens of several sequences, several of one, and both.
        case(Shape(4, 2, 64, 200), &[[8, 100], [0, 0], [49, 50], [33, 150]], Dtype::F16, &plain),
        case(Shape(4, 1, 128, 300), &[[254, 0], [255, 0], [256, 0], [257, 0], [258, 0]], Dtype::F16, &|op| {
            (op.attention.window, op.norm) = (Some(130), Some(1e-6));
        }),
        case(
            Shape(2, 2, 80, 90),
            &[[60, 0], [61, 0], [0, 70], [1, 70], [2, 70], [62, 0]],
            Dtype::F32,
            &|op| {
                (op.rope.interleaved, op.joined) = (true, false);
            },
        ),
        // Many tokens.
        case(Shape(4, 2, 64, 60), &run(0, 33, 0), Dtype::F16, &plain),
        case(Shape(6, 2, 80, 90), &run(7, 19, 2), Dtype::F32, &|op| {
            (op.joined, op.attention.window) = (false, Some(9));
        }),
        case(Shape(3, 1, 128, 40), &run(20, 9, 0), Dtype::F16, &|op| op.norm = Some(1e-5)),
        case(Shape(2, 2, 32, 50), &[run(3, 8, 0), run(0, 5, 25)].concat(), Dtype::F16, &|op| {
            op.rope.interleaved = true;
        }),
    ]
}
