//! Products of many activation rows on AMX tiles, as exact as in `f32`.
//!
//! A tile instruction multiplies bf16 by bf16 and adds in `f32`. Codes (at most 255) and bf16 weights are
//! bf16 numbers already. An activation is split without a remainder into three of them, eight bits of its
//! 24 each, so that every product is exact and only sums round, as they do in `f32`. (Subnormal numbers
//! count as zero, and an infinite activation gives NaN.)
//!
//! Weights are the left operand: their rows lie as the tile wants them. Activations are the right one,
//! interleaved once per call. A result tile is `[weight row, activation row]`: the codes of one group are
//! summed in tiles, then leave them to be scaled, one scale per tile row, and added up in the first-level
//! cache. `y = sum over groups of scale * (codes . x) + bias * sum(x)`.

use super::amx::{FLOATS, STEP, TILE, Tiles, dots, interleave, transpose};
use super::matmul::{Affine, Job, spare, widen_floats};
use super::simd::{LANES, Simd};
use super::threads::{Out, parallel, scratch};
use super::tile::packed;
use super::x86::Avx512;
use std::arch::x86_64::*;
use std::ops::Range;

/// bf16 numbers that add up to an activation.
const PARTS: usize = 3;
/// Weight rows that are multiplied together: two tiles.
const PAIR: usize = 2 * TILE;
/// Weight rows of a panel: many, as all activations pass each panel, but its sums against two tiles of
/// them should stay in the first-level cache.
const PANEL_N: usize = 256;
/// Columns of a panel, which stays in the second-level cache.
const PANEL_K: usize = 1024;
/// Floats of the tiles that are multiplied together.
const STAGE: usize = 4 * FLOATS;
/// Activation rows from which tiles pay.
pub(super) const MIN_ROWS: usize = 6;

/// Weights that become rows of bf16.
pub(super) trait Rows: Copy + Sync {
    /// Columns whose sum leaves the tiles together: a divisor of [`PANEL_K`], whole steps.
    fn group(&self) -> usize;

    /// The scales and biases of groups, if results are scaled.
    fn affine(&self) -> Option<Affine<'_>>;

    /// Scratch that `unpack` wants for rows of `k`.
    fn spare(&self, k: usize) -> usize;

    /// Which two of a step's columns `unpack` puts into pair `p`.
    fn pair(&self, p: usize) -> [usize; 2];

    /// Columns of up to 16 rows, padded with zeros to whole steps: one tile for every step, two tiles apart.
    ///
    /// # Safety
    /// So much is writable at `out`.
    unsafe fn unpack(
        &self,
        s: Avx512,
        rows: Range<usize>,
        k: usize,
        cols: Range<usize>,
        spare: &mut [f32],
        out: *mut f32,
    );
}

#[derive(Clone, Copy)]
pub(super) struct DenseRows<'a>(pub(super) &'a [u16]);

impl Rows for DenseRows<'_> {
    fn group(&self) -> usize {
        128
    }

    fn affine(&self) -> Option<Affine<'_>> {
        None
    }

    fn spare(&self, _: usize) -> usize {
        0
    }

    fn pair(&self, p: usize) -> [usize; 2] {
        [2 * p, 2 * p + 1]
    }

    #[inline(always)]
    unsafe fn unpack(
        &self,
        _: Avx512,
        rows: Range<usize>,
        k: usize,
        cols: Range<usize>,
        _: &mut [f32],
        out: *mut f32,
    ) {
        for (r, row) in rows.enumerate() {
            for (i, w) in self.0[row * k..][cols.clone()].chunks(STEP).enumerate() {
                let mask = u32::MAX >> (STEP - w.len());
                // SAFETY: the mask is as long as the chunk; the caller gave `out`.
                unsafe {
                    let w = _mm512_maskz_loadu_epi16(mask, w.as_ptr().cast());
                    _mm512_storeu_si512(out.add(i * 2 * FLOATS + r * LANES).cast(), w);
                }
            }
        }
    }
}

#[derive(Clone, Copy)]
pub(super) struct AffineRows<'a, const BITS: usize>(pub(super) Affine<'a>);

impl<const BITS: usize> Rows for AffineRows<'_, BITS> {
    fn group(&self) -> usize {
        self.0.group
    }

    fn affine(&self) -> Option<Affine<'_>> {
        Some(self.0)
    }

    fn spare(&self, k: usize) -> usize {
        TILE * spare(k, BITS)
    }

    fn pair(&self, p: usize) -> [usize; 2] {
        if BITS == 4 { [2 * p, 2 * p + 1] } else { [p, LANES + p] }
    }

    #[inline(always)]
    unsafe fn unpack(
        &self,
        s: Avx512,
        rows: Range<usize>,
        k: usize,
        cols: Range<usize>,
        spare: &mut [f32],
        out: *mut f32,
    ) {
        let slot = spare.len() / TILE;
        let mut w = [std::ptr::null(); TILE];
        for (r, w) in w.iter_mut().enumerate() {
            // Past the end the last row again, whose results are dropped.
            let row = (rows.start + r).min(rows.end - 1);
            *w = self.0.row::<BITS>(row, k, &mut spare[r * slot..(r + 1) * slot]);
        }
        for (i, c) in cols.step_by(STEP).enumerate() {
            for (r, w) in w.iter().enumerate() {
                // SAFETY: `row` leaves slack after it; the caller gave `out`.
                unsafe {
                    let codes = codes::<BITS>(s, w.add(packed(c, BITS)));
                    _mm512_storeu_si512(out.add(i * 2 * FLOATS + r * LANES).cast(), codes);
                }
            }
        }
    }
}

/// A step of codes as bf16, in the order of [`Rows::pair`].
///
/// # Safety
/// As for [`Simd::codes`], twice.
#[inline(always)]
unsafe fn codes<const BITS: usize>(s: Avx512, p: *const u8) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        if BITS == 4 {
            // A byte holds a pair: its halves index a table, whose look-up ignores what is above.
            let bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()));
            let halves = _mm512_or_si512(bytes, _mm512_slli_epi32::<12>(bytes));
            return _mm512_permutexvar_epi16(halves, _mm512_loadu_si512(SIXTEEN.as_ptr().cast()));
        }
        let low = _mm512_castps_si512(s.codes::<BITS>(p));
        let high = _mm512_castps_si512(s.codes::<BITS>(p.add(packed(LANES, BITS))));
        interleave(low, high)
    }
}

/// 0 to 15 as bf16, twice.
static SIXTEEN: [u16; 32] = {
    let mut out = [0; 32];
    let mut i = 0;
    while i < 32 {
        out[i] = (((i % 16) as f32).to_bits() >> 16) as u16;
        i += 1;
    }
    out
};

/// The product of `job` on tiles.
///
/// # Safety
/// AMX is [`available`](super::amx::available).
pub(super) unsafe fn product<W: Rows>(job: Job<'_>, w: W) {
    let Job { m, n, k, .. } = job;
    let (tiles, steps, groups) = (m.div_ceil(TILE), k.div_ceil(STEP), k.div_ceil(w.group()));
    let x_len = tiles * steps * PARTS * FLOATS;
    scratch(x_len + tiles * groups * LANES, |buffer| {
        let (x, sums) = buffer.split_at_mut(x_len);
        let outs = (Out::new(x), Out::new(sums));
        parallel(tiles, 1, 1, |range| {
            for tile in range {
                // SAFETY: the caller's promise, and pieces of `parallel` are disjoint tiles.
                unsafe { pack(job, w, tile, outs.0, outs.1) };
            }
        });
        let (x, sums) = (&*x, &*sums);
        let k = k.min(PANEL_K);
        let panel = PANEL_N * k.next_multiple_of(STEP) / 2;
        let table = PANEL_N * k.div_ceil(w.group()).next_multiple_of(LANES);
        let len = panel + 2 * table + 2 * PANEL_N * TILE + TILE * PANEL_N + w.spare(job.k);
        parallel(n, PAIR, 2 * PAIR, |rows| {
            scratch(len, |buffer| {
                let (panel, buffer) = buffer.split_at_mut(panel);
                let (scales, buffer) = buffer.split_at_mut(table);
                let (biases, buffer) = buffer.split_at_mut(table);
                let (acc, buffer) = buffer.split_at_mut(2 * PANEL_N * TILE);
                let (stage, spare) = buffer.split_at_mut(TILE * PANEL_N);
                for start in rows.clone().step_by(PANEL_N) {
                    let rows = start..rows.end.min(start + PANEL_N);
                    let panel = Panel { job, w, x, sums, panel, scales, biases, acc, stage, spare, rows };
                    // SAFETY: the caller's promise.
                    unsafe { panel.run() };
                }
            });
        });
    });
}

/// Floats before the activations of a pair of tiles, whose steps lie one after the other: for each part
/// one tile, or two where the pair is whole.
fn pair_at(pair: usize, steps: usize) -> usize {
    pair * 2 * steps * PARTS * FLOATS
}

/// Splits and interleaves 16 rows of activations, and sums them by groups.
///
/// # Safety
/// AMX is [`available`](super::amx::available); the tile's part of `x` and `sums` is the caller's.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
unsafe fn pack<W: Rows>(job: Job<'_>, w: W, tile: usize, x: Out, sums: Out) {
    let Job { m, k, .. } = job;
    let (tiles, steps, groups) = (m.div_ceil(TILE), k.div_ceil(STEP), k.div_ceil(w.group()));
    let width = (tiles - tile / 2 * 2).min(2);
    let rows = TILE.min(m - tile * TILE);
    let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    let mut sum = _mm512_setzero_ps();
    for step in 0..steps {
        let mut columns = [[_mm512_setzero_ps(); TILE]; 2];
        for (half, columns) in columns.iter_mut().enumerate() {
            let col = step * STEP + half * LANES;
            let mask = if col < k { u16::MAX >> LANES.saturating_sub(k - col) } else { 0 };
            for (r, v) in columns[..rows].iter_mut().enumerate() {
                let row = &job.x[(tile * TILE + r) * k..][..k];
                // SAFETY: the mask ends with the row.
                *v = unsafe { _mm512_maskz_loadu_ps(mask, row.as_ptr().wrapping_add(col)) };
            }
            transpose(columns);
            for &v in columns.iter() {
                sum = _mm512_add_ps(sum, v);
            }
        }
        let end = (step + 1) * STEP;
        if end.is_multiple_of(w.group()) || end >= k {
            let g = step * STEP / w.group();
            // SAFETY: one vector per tile and group.
            unsafe { _mm512_storeu_ps(sums.slice((tile * groups + g) * LANES, LANES).as_mut_ptr(), sum) };
            sum = _mm512_setzero_ps();
        }
        let columns = columns.as_flattened();
        for p in 0..TILE {
            let [mut low, mut high] = w.pair(p).map(|c| columns[c]);
            for part in 0..PARTS {
                // Cut, not rounded: what is left is exact, and has eight bits less.
                let cut = [low, high].map(|v| _mm512_and_si512(_mm512_castps_si512(v), upper));
                let at = pair_at(tile / 2, steps) + ((step * PARTS + part) * width + tile % 2) * FLOATS;
                // SAFETY: inside the tile's part of `x`.
                unsafe {
                    let out = x.slice(at + p * LANES, LANES).as_mut_ptr();
                    _mm512_storeu_si512(out.cast(), interleave(cut[0], cut[1]));
                }
                low = _mm512_sub_ps(low, _mm512_castsi512_ps(cut[0]));
                high = _mm512_sub_ps(high, _mm512_castsi512_ps(cut[1]));
            }
        }
    }
}

/// Some weight rows against all activations.
struct Panel<'a, W> {
    job: Job<'a>,
    w: W,
    /// Activations in parts, and their sums: `[tile][group][row]`.
    x: &'a [f32],
    sums: &'a [f32],
    /// Unpacked weights: `[pair of tiles][step][tile][row][column]`.
    panel: &'a mut [f32],
    /// `[group][row]`.
    scales: &'a mut [f32],
    biases: &'a mut [f32],
    /// Results: `[pair of tiles][tile][tile of activations]`.
    acc: &'a mut [f32],
    /// Results of two groups, not scaled yet: one is scaled while tiles compute the other. At the end,
    /// sixteen rows of results, `[activation row][weight row]`.
    stage: &'a mut [f32],
    spare: &'a mut [f32],
    rows: Range<usize>,
}

impl<W: Rows> Panel<'_, W> {
    /// # Safety
    /// AMX is [`available`](super::amx::available).
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
    unsafe fn run(mut self) {
        // SAFETY: the caller's promise.
        let _tiles = unsafe { Tiles::configure() };
        let Job { m, k, .. } = self.job;
        for col in (0..k).step_by(PANEL_K) {
            let cols = col..k.min(col + PANEL_K);
            // SAFETY: the caller's promise; tiles are configured.
            unsafe {
                self.unpack(cols.clone());
                for pair in 0..m.div_ceil(2 * TILE) {
                    if m - pair * 2 * TILE > TILE {
                        self.multiply::<2>(pair, cols.clone());
                    } else {
                        self.multiply::<1>(pair, cols.clone());
                    }
                }
            }
        }
    }

    /// # Safety
    /// AMX is [`available`](super::amx::available).
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
    unsafe fn unpack(&mut self, cols: Range<usize>) {
        // SAFETY: the caller's promise.
        let s = unsafe { Avx512::assume() };
        let k = self.job.k;
        let steps = cols.len().div_ceil(STEP);
        for row in (0..self.rows.len()).step_by(TILE) {
            let rows = self.rows.start + row..self.rows.end.min(self.rows.start + row + TILE);
            let at = (row / PAIR * steps * 2 + row % PAIR / TILE) * FLOATS;
            // SAFETY: the panel holds so many steps of all rows.
            unsafe {
                let out = self.panel.as_mut_ptr().add(at);
                self.w.unpack(s, rows, k, cols.clone(), self.spare, out);
            }
        }
        let Some(affine) = self.w.affine() else { return };
        let (groups, row_groups) = (cols.len() / affine.group, k / affine.group);
        for (floats, table) in [(affine.scales, &mut *self.scales), (affine.biases, &mut *self.biases)] {
            for row in (0..self.rows.len()).step_by(TILE) {
                for g in (0..groups).step_by(LANES) {
                    let mut block = [_mm512_setzero_ps(); TILE];
                    for (r, v) in block.iter_mut().enumerate().take(self.rows.len() - row) {
                        let at = (self.rows.start + row + r) * row_groups + cols.start / affine.group + g;
                        // SAFETY: a vector is written.
                        unsafe {
                            let out = std::ptr::from_mut(v).cast();
                            widen_floats(s, floats, at, (groups - g).min(LANES), LANES, out);
                        }
                    }
                    transpose(&mut block);
                    for (i, v) in block.into_iter().enumerate() {
                        let out = &mut table[(g + i) * PANEL_N + row..][..LANES];
                        // SAFETY: sixteen values.
                        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v) };
                    }
                }
            }
        }
    }

    /// The panel against one pair of activation tiles, of which `T` exist.
    ///
    /// # Safety
    /// AMX is [`available`](super::amx::available); tiles are configured.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
    unsafe fn multiply<const T: usize>(&mut self, pair: usize, cols: Range<usize>) {
        let Job { m, k, .. } = self.job;
        let group = self.w.group();
        let scaled = self.w.affine().is_some();
        let (steps, all_steps) = (cols.len().div_ceil(STEP), k.div_ceil(STEP));
        let pairs = self.rows.len().div_ceil(PAIR);
        self.acc[..pairs * 2 * T * FLOATS].fill(0.0);
        let mut computed = None;
        for (g, col) in cols.clone().step_by(group).enumerate() {
            let first = g * group / STEP;
            let count = (group / STEP).min(steps - first);
            let x = &self.x[pair_at(pair, all_steps) + col / STEP * PARTS * T * FLOATS..]
                [..count * PARTS * T * FLOATS];
            for p in 0..pairs {
                let w = &self.panel[(p * steps + first) * 2 * FLOATS..][..count * 2 * FLOATS];
                let out = if scaled {
                    &mut self.stage[(g * pairs + p) % 2 * STAGE..][..2 * T * FLOATS]
                } else {
                    &mut self.acc[p * 2 * T * FLOATS..][..2 * T * FLOATS]
                };
                // SAFETY: the slices are as long as what tiles touch.
                unsafe { dots::<T>(w.as_ptr(), x.as_ptr(), count, !scaled, out.as_mut_ptr()) };
                if scaled && let Some((g, p)) = computed.replace((g, p)) {
                    self.scale::<T>(pair, cols.start, g, p);
                }
            }
        }
        if let Some((g, p)) = computed {
            self.scale::<T>(pair, cols.start, g, p);
        }
        let count = self.rows.len();
        for j in 0..T {
            for row in (0..count).step_by(TILE) {
                let at = (row / TILE * T + j) * FLOATS;
                let mut block = [_mm512_setzero_ps(); TILE];
                for (v, acc) in block.iter_mut().zip(self.acc[at..at + FLOATS].chunks_exact(LANES)) {
                    // SAFETY: sixteen values.
                    *v = unsafe { _mm512_loadu_ps(acc.as_ptr()) };
                }
                transpose(&mut block);
                for (i, v) in block.into_iter().enumerate() {
                    let out = &mut self.stage[i * PANEL_N + row..][..LANES];
                    // SAFETY: sixteen values.
                    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v) };
                }
            }
            let start = (pair * 2 + j) * TILE;
            for i in 0..TILE.min(m - start) {
                let values = &self.stage[i * PANEL_N..][..count];
                // SAFETY: these columns of `y` are this piece's.
                unsafe { self.job.write(start + i, self.rows.start, values, cols.start == 0) };
            }
        }
    }

    /// Adds up group `g` after column `col`, of weight pair `p` against a pair of activation tiles.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
    fn scale<const T: usize>(&mut self, pair: usize, col: usize, g: usize, p: usize) {
        let (group, pairs) = (self.w.group(), self.rows.len().div_ceil(PAIR));
        let mut sums = [_mm512_setzero_ps(); T];
        for (j, v) in sums.iter_mut().enumerate() {
            let at = (pair * 2 + j) * self.job.k.div_ceil(group) + col / group + g;
            let sums = &self.sums[at * LANES..][..LANES];
            // SAFETY: sixteen values.
            *v = unsafe { _mm512_loadu_ps(sums.as_ptr()) };
        }
        let stage = &self.stage[(g * pairs + p) % 2 * STAGE..][..2 * T * FLOATS];
        let acc = &mut self.acc[p * 2 * T * FLOATS..][..2 * T * FLOATS];
        let scales = &self.scales[g * PANEL_N + p * PAIR..][..PAIR];
        let biases = &self.biases[g * PANEL_N + p * PAIR..][..PAIR];
        for r in 0..PAIR {
            let (scale, bias) = (_mm512_set1_ps(scales[r]), _mm512_set1_ps(biases[r]));
            for j in 0..T {
                let at = (r / TILE * T + j) * FLOATS + r % TILE * LANES;
                // SAFETY: inside the pair's tiles.
                unsafe {
                    let out = acc.as_mut_ptr().add(at);
                    let sum = _mm512_fmadd_ps(bias, sums[j], _mm512_loadu_ps(out));
                    let dot = _mm512_loadu_ps(stage.as_ptr().add(at));
                    _mm512_storeu_ps(out, _mm512_fmadd_ps(scale, dot, sum));
                }
            }
        }
    }
}
