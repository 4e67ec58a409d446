//! Causal grouped-query attention over a token-major cache, with an online softmax.
//!
//! A piece of work is one key/value head and a few neighbouring queries: the rows that share its keys.
//! Keys pass in blocks, each within a page: scores, new maximum, rescaled sums, weighted values. So no row of scores is ever
//! as long as the context, and keys and values are read once per piece.

use super::floats::{BF16, Element, F16, F32, Floats};
use super::math::exp_sum;
use super::packed::Packing;
use super::pages::{PAGE, Place};
use super::simd::{Kernel, LANES, Level, Simd};
use super::threads::{Out, parallel, scratch};
use super::tile::{dots_upto6, weighted, widen};
use std::ops::Range;

/// Keys of a block; a page has a whole number.
const BLOCK: usize = 64;
/// Query rows (queries x heads of a group) that a piece aims at.
const ROWS: usize = 24;

/// `y[i, h] = softmax(scale * q[i, h] . k[j, h / group]) . v[j, h / group]` over the logical rows
/// `max(s, s + p - window + 1) <= j <= s + p` that the table has, with `(p, s) = places[i]`. `q` and `y` are `[t, heads, dim]`,
/// `k` and `v` are `[rows, kv_heads, dim]`.
#[allow(clippy::too_many_arguments, reason = "the formula's operands and sizes")]
pub(crate) fn attention(
    q: &[f32],
    k: Floats<'_>,
    v: Floats<'_>,
    (places, table): (&[Place], &[u32]),
    heads: usize,
    kv_heads: usize,
    dim: usize,
    scale: f32,
    window: Option<usize>,
    y: &mut [f32],
) {
    let shape = Shape { heads, kv_heads, dim, scale, window };
    attention_at(Level::best(), q, k, v, (places, table), shape, y);
}

/// Rows of a packed cache.
#[derive(Clone, Copy)]
pub(crate) struct Packed<'a> {
    pub(crate) packing: Packing,
    pub(crate) words: &'a [u32],
}

/// [`attention`] over packed keys and values; queries and result are in the basis of the cache.
#[allow(clippy::too_many_arguments, reason = "the formula's operands and sizes")]
pub(crate) fn attention_packed(
    q: &[f32],
    [k, v]: [(Packing, &[u32]); 2],
    (places, table): (&[Place], &[u32]),
    heads: usize,
    kv_heads: usize,
    dim: usize,
    scale: f32,
    window: Option<usize>,
    y: &mut [f32],
) {
    if y.is_empty() {
        return;
    }
    let shape = Shape { heads, kv_heads, dim, scale, window };
    let packed = [k, v].map(|(packing, words)| Packed { packing, words });
    let capacity = k.1.len() / k.0.row_words(kv_heads, dim);
    let (level, y) = (Level::best(), Out::new(y));
    let job = Job { level, q, places, table, shape, capacity, y, packed: Some(packed) };
    job.run::<F32>(&[], &[]);
}

#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) dim: usize,
    pub(super) scale: f32,
    pub(super) window: Option<usize>,
}

pub(super) fn attention_at(
    level: Level,
    q: &[f32],
    k: Floats<'_>,
    v: Floats<'_>,
    (places, table): (&[Place], &[u32]),
    shape: Shape,
    y: &mut [f32],
) {
    debug_assert_eq!((q.len(), y.len()), (places.len() * shape.heads * shape.dim, q.len()));
    debug_assert_eq!(k.len(), v.len());
    debug_assert_eq!(shape.heads % shape.kv_heads.max(1), 0);
    if y.is_empty() {
        return;
    }
    let capacity = k.len() / (shape.kv_heads * shape.dim);
    let job = Job { level, q, places, table, shape, capacity, y: Out::new(y), packed: None };
    match (k, v) {
        (Floats::F32(k), Floats::F32(v)) => job.run::<F32>(k, v),
        (Floats::F16(k), Floats::F16(v)) => job.run::<F16>(k, v),
        (Floats::BF16(k), Floats::BF16(v)) => job.run::<BF16>(k, v),
        _ => debug_assert!(false, "keys and values of different types"),
    }
}

#[derive(Clone, Copy)]
struct Job<'a> {
    level: Level,
    q: &'a [f32],
    places: &'a [Place],
    table: &'a [u32],
    shape: Shape,
    /// Rows of the cache.
    capacity: usize,
    y: Out,
    /// Keys and values, if not floats.
    packed: Option<[Packed<'a>; 2]>,
}

impl Job<'_> {
    fn run<E: Element>(self, k: &[E::Raw], v: &[E::Raw]) {
        let Shape { heads, kv_heads, dim, .. } = self.shape;
        let group = heads / kv_heads;
        // Queries of different sequences have no keys in common.
        let together = self.places.windows(2).all(|pair| pair[0][1] == pair[1][1]);
        let per_piece = if together { (ROWS / group).max(1).min(self.places.len()) } else { 1 };
        let pieces = self.places.len().div_ceil(per_piece);
        // Keys and values of a block only need widening first if enough rows share them.
        let share = per_piece > 1 || dim % LANES != 0 || self.packed.is_some();
        let padded = (dim.div_ceil(LANES) | 1) * LANES;
        let rows = per_piece * group;
        let need = rows * (2 * padded + BLOCK + 2 * LANES) + if share { 2 * BLOCK * padded } else { 0 };
        parallel(kv_heads * pieces, 1, 1, |range| {
            scratch(need, |buffer| {
                for i in range {
                    let first = i % pieces * per_piece;
                    let queries = first..self.places.len().min(first + per_piece);
                    let piece =
                        Piece::<E> { job: self, k, v, head: i / pieces, queries, padded, share, buffer };
                    self.level.run(piece);
                }
            });
        });
    }

    /// The keys that query `i` sees, as logical rows.
    fn keys(&self, i: usize) -> Range<usize> {
        let [position, first] = self.places[i].map(|n| n as usize);
        let next = position + 1;
        let start = first + self.shape.window.map_or(0, |w| next.saturating_sub(w));
        let end = self.table.len() * PAGE;
        start.min(end)..(first + next).min(end)
    }
}

struct Piece<'a, E: Element> {
    job: Job<'a>,
    k: &'a [E::Raw],
    v: &'a [E::Raw],
    head: usize,
    queries: Range<usize>,
    padded: usize,
    share: bool,
    buffer: &'a mut [f32],
}

impl<E: Element> Kernel for Piece<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { job, padded, head, .. } = self;
        let Shape { heads, kv_heads, dim, scale, .. } = job.shape;
        let group = heads / kv_heads;
        let rows = self.queries.len() * group;
        let (q, rest) = self.buffer.split_at_mut(rows * padded);
        let (acc, rest) = rest.split_at_mut(rows * padded);
        let (p, rest) = rest.split_at_mut(rows * BLOCK);
        let (state, rest) = rest.split_at_mut(2 * rows);
        let (max, sum) = state.split_at_mut(rows);
        // What is left is aligned like the whole if the state is whole lines.
        let rest = &mut rest[2 * rows * (LANES - 1)..];
        acc.fill(0.0);
        max.fill(f32::NEG_INFINITY);
        sum.fill(0.0);
        let source = |r: usize| ((self.queries.start + r / group) * heads + head * group + r % group) * dim;
        for r in 0..rows {
            let row = &mut q[r * padded..(r + 1) * padded];
            for (out, q) in row.iter_mut().zip(&job.q[source(r)..][..dim]) {
                *out = q * scale;
            }
            row[dim..].fill(0.0);
        }
        let mut all = job.keys(self.queries.start);
        for i in self.queries.clone() {
            let keys = job.keys(i);
            all = all.start.min(keys.start)..all.end.max(keys.end);
        }
        let width = dim.next_multiple_of(S::N);
        let mut start = all.start;
        while start < all.end {
            let block = start..all.end.min((start / BLOCK + 1) * BLOCK);
            start = block.end;
            let row = job.table[block.start / PAGE] as usize * PAGE + block.start % PAGE;
            if row + block.len() > job.capacity {
                continue;
            }
            if let Some(packed) = &job.packed {
                for (i, Packed { packing, words }) in packed.iter().enumerate() {
                    let sizes = packing.sizes(kv_heads, dim);
                    let mut here = Vec::new();
                    let to = rest[i * BLOCK * padded..].chunks_exact_mut(padded);
                    for (j, to) in to.take(block.len()).enumerate() {
                        let row = packing.row(words, row + j, sizes, &mut here);
                        packing.read_head(row, kv_heads, head, dim, to);
                        to[dim..].fill(0.0);
                    }
                }
                let (k, v) = ((rest.as_ptr(), padded), (rest[BLOCK * padded..].as_ptr(), padded));
                // SAFETY: scratch holds two blocks of padded rows.
                unsafe { step::<S, F32>(s, &job, &self.queries, &block, k, v, q, padded, acc, p, max, sum) };
                continue;
            }
            let at = (row * kv_heads + head) * dim;
            // SAFETY: the block lies inside its page, and that inside the cache.
            let (k, v) = unsafe { (self.k.as_ptr().add(at), self.v.as_ptr().add(at)) };
            if self.share {
                let (ks, vs) = (rest.as_mut_ptr(), rest[BLOCK * padded..].as_mut_ptr());
                for j in 0..block.len() {
                    // SAFETY: as above; scratch holds two blocks of padded rows.
                    unsafe {
                        let (from, to) = (j * kv_heads * dim, j * padded);
                        widen::<S, E>(s, k.add(from), dim, width, ks.add(to));
                        widen::<S, E>(s, v.add(from), dim, width, vs.add(to));
                    }
                }
                let (k, v) = ((ks.cast_const(), padded), (vs.cast_const(), padded));
                // SAFETY: as above.
                unsafe { step::<S, F32>(s, &job, &self.queries, &block, k, v, q, padded, acc, p, max, sum) };
            } else {
                let (k, v) = ((k, kv_heads * dim), (v, kv_heads * dim));
                // SAFETY: as above; `dim` is whole vectors.
                unsafe { step::<S, E>(s, &job, &self.queries, &block, k, v, q, padded, acc, p, max, sum) };
            }
        }
        for r in 0..rows {
            // SAFETY: each piece writes the rows of its own queries and heads.
            let y = unsafe { job.y.slice(source(r), dim) };
            let inverse = if sum[r] > 0.0 { 1.0 / sum[r] } else { 0.0 };
            for (y, a) in y.iter_mut().zip(&acc[r * padded..]) {
                *y = a * inverse;
            }
        }
    }
}

/// One block of keys for all rows of a piece.
///
/// # Safety
/// `block.len()` rows of `dim` values, rounded up to whole vectors, are readable at `k` and `v`.
#[allow(clippy::too_many_arguments, reason = "the state of the online softmax")]
#[inline(always)]
unsafe fn step<S: Simd, E: Element>(
    s: S,
    job: &Job<'_>,
    queries: &Range<usize>,
    block: &Range<usize>,
    (k, k_stride): (*const E::Raw, usize),
    (v, v_stride): (*const E::Raw, usize),
    q: &[f32],
    padded: usize,
    acc: &mut [f32],
    p: &mut [f32],
    max: &mut [f32],
    sum: &mut [f32],
) {
    let Shape { heads, kv_heads, dim, .. } = job.shape;
    let group = heads / kv_heads;
    let (rows, keys) = (queries.len() * group, block.len());
    let width = dim.next_multiple_of(S::N);
    let mut out = [[0.0; 4]; 6];
    let mut i = 0;
    while i < rows {
        let tile = (rows - i).min(S::TILE);
        let mut j = 0;
        while j < keys {
            let last = keys - 1;
            // SAFETY: rows of the block; `q` is padded.
            unsafe {
                let w = [
                    k.add(j * k_stride),
                    k.add((j + 1).min(last) * k_stride),
                    k.add((j + 2).min(last) * k_stride),
                    k.add((j + 3).min(last) * k_stride),
                ];
                dots_upto6::<S, E>(s, w, q.as_ptr().add(i * padded), padded, width, tile, &mut out);
            }
            for c in 0..tile {
                p[(i + c) * BLOCK + j..][..4].copy_from_slice(&out[c]);
            }
            j += 4;
        }
        i += tile;
    }
    for r in 0..rows {
        let seen = job.keys(queries.start + r / group);
        let from = seen.start.clamp(block.start, block.end) - block.start;
        let to = seen.end.clamp(block.start, block.end) - block.start;
        let row = &mut p[r * BLOCK..(r + 1) * BLOCK];
        row[..from.min(to)].fill(0.0);
        row[to.max(from)..].fill(0.0);
        if from >= to {
            row.fill(0.0);
            continue;
        }
        let seen = &mut row[from..to];
        let mut new = max[r];
        for &score in &*seen {
            new = if score > new { score } else { new };
        }
        let correction = (max[r] - new).exp();
        let total = exp_sum(s, seen, new);
        sum[r] = sum[r] * correction + total;
        if correction != 1.0 {
            for a in &mut acc[r * padded..(r + 1) * padded] {
                *a *= correction;
            }
        }
        max[r] = new;
    }
    let mut i = 0;
    while i < rows {
        let tile = (rows - i).min(S::TILE);
        let mut d = 0;
        while d < width {
            // SAFETY: `acc` rows are padded; the block's rows are as long as `width`.
            unsafe {
                let p = (p.as_ptr().add(i * BLOCK), BLOCK);
                let v = (v.add(d), v_stride);
                let y = (acc.as_mut_ptr().add(i * padded + d), padded);
                if d + 2 * S::N <= width {
                    values::<S, E, 2>(s, p, v, keys, y, tile);
                    d += 2 * S::N;
                } else {
                    values::<S, E, 1>(s, p, v, keys, y, tile);
                    d += S::N;
                }
            }
        }
        i += tile;
    }
}

/// [`weighted`] for `m <= 6` rows.
///
/// # Safety
/// As for [`weighted`].
#[inline(always)]
unsafe fn values<S: Simd, E: Element, const D: usize>(
    s: S,
    p: (*const f32, usize),
    v: (*const E::Raw, usize),
    rows: usize,
    y: (*mut f32, usize),
    m: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match m {
            1 => weighted::<S, E, 1, D>(s, p, v, rows, y),
            2 => weighted::<S, E, 2, D>(s, p, v, rows, y),
            3 => weighted::<S, E, 3, D>(s, p, v, rows, y),
            4 => weighted::<S, E, 4, D>(s, p, v, rows, y),
            5 => weighted::<S, E, 5, D>(s, p, v, rows, y),
            _ => weighted::<S, E, 6, D>(s, p, v, rows, y),
        }
    }
}
