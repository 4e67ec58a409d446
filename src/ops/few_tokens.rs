//! What attention of few tokens has in common over caches of any kind: how keys and heads are shared out, and parts.

use super::Attention;
use super::matvec::DOT8;
use super::raw_heads::{VALUES, lanes};
use crate::gpu::Caps;
use crate::op::Word;
use crate::wgsl::{File, wgsl};

pub(super) static ADD_SPLITS: File = wgsl!("parts/add_splits.wgsl");
static KEY_RANGE: File = wgsl!("parts/key_range.wgsl");
static LANES_SUBGROUP: File = wgsl!("parts/lanes_subgroup.wgsl");
static LANES_SHARED: File = wgsl!("parts/lanes_shared.wgsl");
static FIRST_NEW: File = wgsl!("parts/first_new.wgsl");
static STEP_ANGLES: File = wgsl!("parts/step_angles.wgsl");
static FOUND: File = wgsl!("parts/found.wgsl");
pub(super) static BY_FLOATS: File = wgsl!("parts/by_floats.wgsl");
pub(super) static OVER_KEYS: File = wgsl!("parts/over_keys.wgsl");
pub(super) static SUMS: File = wgsl!("parts/sums.wgsl");
pub(super) static OVER_TILES: File = wgsl!("parts/over_tiles.wgsl");
pub(super) static BY_FRAGMENTS: File = wgsl!("parts/by_fragments.wgsl");
pub(super) static QUERIES_HALVES: File = wgsl!("parts/queries_halves.wgsl");
pub(super) static FRAGMENTS: File = wgsl!("parts/fragments.wgsl");
pub(super) static GREATEST: File = wgsl!("parts/greatest.wgsl");
static ROWS: File = wgsl!("parts/rows.wgsl");
static MEET: File = wgsl!("parts/meet.wgsl");
static FOUND_PARTS: File = wgsl!("parts/found_parts.wgsl");
static FOUND_TEAMS: File = wgsl!("parts/found_teams.wgsl");

/// Invocations of a workgroup.
pub(super) const WG: usize = 128;
/// Query heads that share a key once it is loaded.
pub(super) const HEADS: usize = 4;
/// Keys that a part of a workgroup takes at once as floats, and as whole numbers: see `tile_of` in `keys_int.wgsl`.
const FOUR: usize = 4;
const EIGHT: usize = 8;
/// Workgroups that a step should have where keys are many, on a discrete GPU and elsewhere: 132 multiprocessors of an
/// NVIDIA H100 or H200 take three each over f16 caches, and over packed ones 512 are no faster.
const GROUPS: usize = 384;
const UNIFIED_GROUPS: usize = 128;
/// Invocations that multiply fragments together.
const TEAM: usize = 32;
/// Splits that are added up by one workgroup at most.
const MAX_SPLITS: usize = 128;

/// What keys are multiplied by.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Way {
    /// Matrices whose elements stand in registers.
    Fragments,
    /// Whole numbers, which takes subgroups.
    Integers,
    Floats,
}

impl Way {
    /// Whether an adapter can go this way with heads of `d`, lanes exchanging values directly if `subgroups`. What fragments
    /// mean any adapter can do by way of workgroup memory.
    pub(super) fn suits(self, caps: &Caps, subgroups: bool, d: usize) -> bool {
        let exchanges = !subgroups || in_subgroup(caps, lanes(d));
        exchanges
            && match self {
                Way::Fragments => matches!(d, 64 | 128) && (caps.fragments || !subgroups),
                Way::Integers => caps.dot4 && subgroups,
                Way::Floats => true,
            }
    }

    /// Keys that a part of a workgroup takes at once: of fragments its share of those that 32 invocations take together.
    fn tile(self, lanes: usize) -> usize {
        match self {
            Way::Fragments => 16 * lanes / TEAM,
            Way::Integers => EIGHT,
            Way::Floats => FOUR,
        }
    }

    /// Bytes of workgroup memory that it takes more than others: queries, fragments where they are exchanged there.
    pub(super) fn memory(self, lanes: usize) -> usize {
        if self == Way::Fragments { 16 * 8 * lanes + 80 + 24 * WG } else { 0 }
    }
}

/// How keys and heads are shared out.
#[derive(Clone, Copy)]
pub(super) struct Split {
    /// Invocations of a workgroup.
    pub(super) wg: usize,
    /// Query heads of a workgroup, at most.
    pub(super) heads: usize,
    /// Workgroups that share the keys of a KV head.
    pub(super) count: usize,
    pub(super) way: Way,
}

impl Split {
    /// One workgroup for all keys.
    pub(super) fn one(way: Way) -> Self {
        Self { wg: WG, heads: HEADS, count: 1, way }
    }

    /// Among as many workgroups as fill the GPU, of `t` tokens with heads of `d` that see `visible` keys. Each takes
    /// [`Split::step`] at least: few keys leave most of a GPU idle.
    pub(super) fn among_many(
        self,
        attention: &Attention,
        caps: &Caps,
        visible: usize,
        [t, d]: [usize; 2],
    ) -> Self {
        let groups = if caps.unified { UNIFIED_GROUPS } else { GROUPS };
        let wanted = groups / (attention.kv_heads * self.chunks(attention) * t);
        let count = wanted.clamp(1, MAX_SPLITS).min(visible.div_ceil(self.step(d)) + 1);
        Self { count, ..self }
    }

    /// Workgroups that share the query heads of a KV head.
    pub(super) fn chunks(self, attention: &Attention) -> usize {
        (attention.heads / attention.kv_heads).div_ceil(self.heads)
    }

    /// Query heads of a workgroup.
    pub(super) fn query_heads(self, attention: &Attention) -> usize {
        (attention.heads / attention.kv_heads).div_ceil(self.chunks(attention))
    }

    /// Keys of heads of `d` that a workgroup takes at once.
    fn step(self, d: usize) -> usize {
        self.way.tile(lanes(d)) * self.wg / lanes(d)
    }

    /// Parts that add up without workgroup memory: by shuffles, or in products.
    pub(super) fn merged(self, caps: &Caps, lanes: usize, subgroups: bool) -> usize {
        if self.way == Way::Fragments {
            return TEAM / lanes;
        }
        let least = caps.subgroups.filter(|_| subgroups).map_or(1, |(least, _)| least as usize);
        (least / lanes).clamp(1, WG / lanes)
    }

    /// Vectors of 4 values through which parts meet: 8 values of each invocation for two heads, or of some for four; or query
    /// heads and `new` keys and values, as they come and as they are made ready.
    pub(super) fn meeting(self, lanes: usize, merged: usize, new: usize) -> usize {
        let at_once = if merged > 1 && self.heads > 2 { 4 } else { 2 };
        (2 * at_once * self.wg / merged).max(2 * 2 * lanes * (HEADS + new))
    }

    /// Parameters that all kernels have.
    pub(super) fn params(self, attention: &Attention) -> Vec<(&'static str, Word)> {
        let window = attention.window.map_or(Word::U32(0), Word::from);
        vec![("chunks", self.chunks(attention).into()), ("window", window), ("scale", attention.scale.into())]
    }

    /// Workgroups for `t` tokens.
    pub(super) fn grid(self, attention: &Attention, t: usize) -> [u32; 3] {
        [(attention.kv_heads * self.chunks(attention)) as u32, self.count as u32, t as u32]
    }

    /// Bytes of what splits find of `t` tokens with heads of `d`: sums of each query head, then, in a vector of four, what they
    /// are relative to and the sum of weights.
    pub(super) fn found(self, attention: &Attention, [t, d]: [usize; 2]) -> u64 {
        (t * attention.heads * self.count * (4 * d + 16)) as u64
    }

    /// Parts and constants of attention of `t` tokens with heads of `d`.
    pub(super) fn parts(
        self,
        attention: &Attention,
        caps: &Caps,
        subgroups: bool,
        [t, d]: [usize; 2],
        new: usize,
    ) -> ([&'static File; 9], Vec<(&'static str, f64)>) {
        let lanes_file = exchange(subgroups);
        let found = if self.way == Way::Fragments { &FOUND_TEAMS } else { &FOUND_PARTS };
        let files = [&FOUND, found, &STEP_ANGLES, &DOT8, &KEY_RANGE, &FIRST_NEW, lanes_file, &ROWS, &MEET];
        let heads = self.query_heads(attention);
        let lanes = lanes(d);
        let merged = self.merged(caps, lanes, subgroups);
        let constants = vec![
            ("WG", self.wg as f64),
            ("HEADS", heads as f64),
            ("TOKENS", t as f64),
            ("ANGLES", (t * lanes * VALUES / 2) as f64),
            ("MEETING", self.meeting(lanes, merged, new) as f64),
            ("MERGED", merged as f64),
            ("STEP", self.step(d) as f64),
            // Whole subgroups of 32 make queries.
            ("PAIRS", ((heads * lanes).next_multiple_of(32) / lanes) as f64),
        ];
        (files, constants)
    }
}

/// How lanes exchange values: directly, or through workgroup memory.
pub(super) fn exchange(subgroups: bool) -> &'static File {
    if subgroups { &LANES_SUBGROUP } else { &LANES_SHARED }
}

/// Whether `lanes` neighbours are in one subgroup on every adapter of this kind.
pub(super) fn in_subgroup(caps: &Caps, lanes: usize) -> bool {
    caps.subgroups.is_some_and(|(least, _)| least as usize >= lanes)
}
