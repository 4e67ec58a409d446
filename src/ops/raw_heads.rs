//! Query, key and value heads as a linear layer gives them, and what fused attention does to them first: norms,
//! rotation. Shared by attention over floats and over packed caches.

use super::kernel::{FLOATS, PACK, declare, kind};
use super::pages::PAGES;
use super::rope::ANGLE;
use super::{Attention, RmsNorm, Rope};
use crate::array::MLXArray;
use crate::dtype::Dtype;
use crate::op::{Arg, Fill, Op, Site, Spec, Stage, Word};
use crate::wgsl::{File, wgsl};

static HEADS8: File = wgsl!("parts/heads8.wgsl");
static HEAD_GAINS: File = wgsl!("parts/head_gains.wgsl");
static NO_HEAD_GAINS: File = wgsl!("parts/no_head_gains.wgsl");

/// Values of a head that an invocation holds.
pub(super) const VALUES: usize = 8;

/// How the heads of a step come and what happens to them. Inputs are `q, k, v`, or one array of the three side by
/// side, `keys, values, places [t, 2], table [pages], inv_freq [rotated / 2]`, and gains of query and key heads if normed.
pub(super) struct RawHeads<'a> {
    pub(super) attention: &'a Attention,
    pub(super) rope: &'a Rope,
    /// Whether heads are normed first, with which epsilon.
    pub(super) norm: Option<f32>,
    /// Whether q, k and v are one array.
    pub(super) joined: bool,
    /// Values of a head.
    pub(super) d: usize,
}

/// Where the inputs after q, k and v are.
pub(super) struct Inputs {
    pub(super) keys: usize,
    pub(super) values: usize,
    pub(super) places: usize,
    pub(super) table: usize,
    pub(super) inv_freq: usize,
    pub(super) q_gain: usize,
    pub(super) k_gain: usize,
    /// The first of what an op has beyond these.
    pub(super) rest: usize,
}

impl Inputs {
    pub(super) fn new(joined: bool, normed: bool) -> Self {
        let keys = if joined { 1 } else { 3 };
        let [values, places, table, inv_freq, q_gain, k_gain] = [1, 2, 3, 4, 5, 6].map(|i| keys + i);
        let rest = if normed { k_gain + 1 } else { q_gain };
        Self { keys, values, places, table, inv_freq, q_gain, k_gain, rest }
    }
}

/// A stage's own part: its files and constants, what it writes beside the cache and how the cache is bound, inputs and
/// parameters of its own.
pub(super) struct Own<'a> {
    pub(super) files: &'a [&'static File],
    pub(super) constants: &'a [(&'static str, f64)],
    pub(super) out: Arg,
    /// Types of keys and values.
    pub(super) cache: [&'static str; 2],
    pub(super) reads: &'a [(&'static str, &'static str, Arg)],
    pub(super) params: Vec<(&'static str, Word)>,
}

impl RawHeads<'_> {
    pub(super) fn inputs(&self) -> Inputs {
        Inputs::new(self.joined, self.norm.is_some())
    }

    /// Values of all query heads, and of all key heads.
    fn widths(&self) -> (usize, usize) {
        (self.attention.heads * self.d, self.attention.kv_heads * self.d)
    }

    /// Queries and keys, normed and rotated, `[t, heads, d]`, and values `[t, kv_heads * d]`.
    pub(super) fn ready(&self, x: &[MLXArray]) -> [MLXArray; 3] {
        let Attention { heads, kv_heads, .. } = *self.attention;
        let at = self.inputs();
        let (t, (q_width, kv_width)) = (x[0].spec().axis(2), self.widths());
        let [q, k, v] = if self.joined {
            let part = |start, len| x[0].slice(1, start, len);
            [part(0, q_width), part(q_width, kv_width), part(q_width + kv_width, kv_width)]
        } else {
            [0, 1, 2].map(|i| x[i].clone())
        };
        let ready = |x_heads: &MLXArray, n: usize, gain: usize| {
            let mut y = x_heads.reshape(&[t, n, self.d]);
            if let Some(eps) = self.norm {
                y = MLXArray::apply(RmsNorm { eps }, &[&y, &x[gain]]);
            }
            MLXArray::apply(self.rope.clone(), &[&y, &x[at.places], &x[at.inv_freq]])
        };
        [ready(&q, heads, at.q_gain), ready(&k, kv_heads, at.k_gain), v]
    }

    /// What identifies all this among ops.
    pub(super) fn words(&self) -> Vec<Word> {
        let mut words = self.attention.words();
        words.extend(self.rope.words());
        words.push(Word::U32(self.joined.into()));
        words.extend(self.norm.map(Word::F32));
        words
    }

    /// Whether kernels can take these heads.
    pub(super) fn suit(&self, most: usize) -> bool {
        (VALUES..=most).contains(&self.d)
            && self.d.is_multiple_of(VALUES)
            && self.rope.rotated.is_multiple_of(2 * VALUES)
    }

    /// A stage that begins with raw heads: bindings, parameters and parts that every such stage has.
    pub(super) fn stage(&self, site: &Site<'_>, own: Own<'_>) -> Stage {
        let Attention { heads, kv_heads, .. } = *self.attention;
        let (at, (q_width, kv_width)) = (self.inputs(), self.widths());
        let mut stage = Stage {
            files: own.files.to_vec(),
            constants: own.constants.to_vec(),
            baked: true,
            ..Stage::default()
        };
        stage.files.extend([&HEADS8, &ANGLE, &PAGES]);
        stage.files.push(if self.norm.is_some() { &HEAD_GAINS } else { &NO_HEAD_GAINS });
        stage.files.extend([&FLOATS, &PACK]);
        stage.constants.extend([
            ("LANES", lanes(self.d) as f64),
            ("NORM", f64::from(u8::from(self.norm.is_some()))),
            ("INTERLEAVED", f64::from(u8::from(self.rope.interleaved))),
        ]);
        let (q_pitch, kv_pitch, k_first, v_first) = match self.joined {
            true => (q_width + 2 * kv_width, q_width + 2 * kv_width, q_width, q_width + kv_width),
            false => (q_width, kv_width, 0, 0),
        };
        stage.params = vec![
            ("q_pitch", (q_pitch / 4).into()),
            ("kv_pitch", (kv_pitch / 4).into()),
            ("k_first", (k_first / 4).into()),
            ("v_first", (v_first / 4).into()),
            ("heads", heads.into()),
            ("kv_heads", kv_heads.into()),
            ("eights", (self.d / VALUES).into()),
            ("half", site.inputs[at.inv_freq].size().into()),
            ("rope_scale", self.rope.scale.into()),
            ("eps", self.norm.unwrap_or(0.0).into()),
        ];
        stage.params.extend(own.params);
        let names: &[&str] = if self.joined { &["qkv"] } else { &["q", "k", "v"] };
        let mut reads: Vec<(&str, &str)> = names.iter().map(|name| (*name, "array<vec4<f32>>")).collect();
        reads.extend([("places", "array<vec2<u32>>"), ("table", "array<u32>"), ("inv_freq", "array<f32>")]);
        stage.reads = (0..names.len()).chain([at.places, at.table, at.inv_freq]).map(Arg::Input).collect();
        if self.norm.is_some() {
            for (input, constant, name) in [(at.q_gain, "Q_GAIN", "q_gain"), (at.k_gain, "K_GAIN", "k_gain")]
            {
                stage.reads.push(Arg::Input(input));
                stage.constants.push((constant, kind(site.inputs[input].dtype)));
                reads.push((name, "array<u32>"));
            }
        }
        for &(name, of, arg) in own.reads {
            stage.reads.push(arg);
            reads.push((name, of));
        }
        stage.writes = vec![Arg::Input(at.keys), Arg::Input(at.values), own.out];
        let [keys, values] = own.cache;
        stage.generated =
            declare(&stage, &reads, &[("keys", keys), ("values", values), ("out", "array<vec4<f32>>")]);
        for (function, separate) in [("q4", "q"), ("k4", "k"), ("v4", "v")] {
            let array = if self.joined { "qkv" } else { separate };
            stage.generated += &format!("fn {function}(at: u32) -> vec4<f32> {{ return {array}[at]; }}\n");
        }
        stage
    }
}

/// Invocations that cover a head.
pub(super) fn lanes(d: usize) -> usize {
    (d / VALUES).next_power_of_two().max(8)
}

/// Fills for q, k and v of `t` tokens, before those of the cache.
pub(super) fn fills(joined: bool, t: usize, [heads, kv_heads, d]: [usize; 3]) -> Vec<Fill> {
    let widths = match joined {
        true => vec![(heads + 2 * kv_heads) * d],
        false => vec![heads * d, kv_heads * d, kv_heads * d],
    };
    widths.iter().map(|&width| Fill::Normal(Spec::new(&[t, width], Dtype::F32))).collect()
}
