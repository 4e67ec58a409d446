//! `y = x . W^T`: weights as the file stores them, activations in `f32`.
//!
//! Few activation rows: the weights stream through registers once, widened or unpacked on the way, and
//! memory bandwidth is the limit. Many: a panel of weight rows is widened into scratch that stays in the
//! second-level cache, and register tiles run over it, so that widening is paid once per panel.

#[cfg(target_arch = "x86_64")]
use super::amx_panel as amx;
use super::floats::{BF16, Element, F16, F32, Floats};
use super::panel::{AffineRows, DenseRows, panels};
use super::simd::{Kernel, LANES, Level, SLACK, Simd};
use super::threads::{Out, parallel, scratch};
use super::tile::{affine_dots, dots_upto6, packed, widen};
use std::ops::Range;

/// A weight matrix `[n, k]`, row-major, as the file stores it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Weight<'a> {
    /// Plain values.
    Dense(Floats<'a>),
    /// Codes of 2, 3, 4, 5, 6 or 8 bits, each row a little-endian bit stream, with one scale and one bias
    /// per group of 32, 64 or 128: `w = scale * code + bias`.
    Affine { bits: u32, group: usize, words: &'a [u32], scales: Floats<'a>, biases: Floats<'a> },
}

/// Multiply-adds that a piece of work should hold at least.
const GRAIN: usize = 1 << 15;

/// `y[m, n] = x[m, k] . W[n, k]^T (+ bias[n])`.
pub(crate) fn matmul(
    x: &[f32],
    w: &Weight<'_>,
    bias: Option<Floats<'_>>,
    m: usize,
    n: usize,
    k: usize,
    y: &mut [f32],
) {
    matmul_at(Level::best(), x, w, bias, m, n, k, y);
}

#[allow(clippy::too_many_arguments, reason = "the product's operands and sizes")]
pub(super) fn matmul_at(
    level: Level,
    x: &[f32],
    w: &Weight<'_>,
    bias: Option<Floats<'_>>,
    m: usize,
    n: usize,
    k: usize,
    y: &mut [f32],
) {
    debug_assert_eq!((x.len(), y.len()), (m * k, m * n));
    if m == 0 || n == 0 {
        return;
    }
    let job = Job { level, x, bias, m, n, k, y: Out::new(y) };
    match *w {
        Weight::Dense(Floats::F32(w)) => job.dense::<F32>(w),
        Weight::Dense(Floats::F16(w)) => job.dense::<F16>(w),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a level with tiles exists only where they may be used.
        Weight::Dense(Floats::BF16(w)) if job.tiles() => unsafe { amx::product(job, amx::DenseRows(w)) },
        Weight::Dense(Floats::BF16(w)) => job.dense::<BF16>(w),
        Weight::Affine { bits, group, words, scales, biases } => {
            debug_assert_eq!(words.len(), n * k * bits as usize / 32);
            debug_assert_eq!((scales.len(), biases.len()), (n * k / group, n * k / group));
            let w = Affine { words: bytemuck::cast_slice(words), scales, biases, group };
            match bits {
                2 => job.affine::<2>(w),
                3 => job.affine::<3>(w),
                4 => job.affine::<4>(w),
                5 => job.affine::<5>(w),
                6 => job.affine::<6>(w),
                8 => job.affine::<8>(w),
                _ => debug_assert!(false, "{bits} bits"),
            }
        }
    }
}

/// `y[i, :] = W[ids[i], :]`; an id outside the table gives zeros.
pub(crate) fn embedding(ids: &[u32], w: &Weight<'_>, n: usize, k: usize, y: &mut [f32]) {
    debug_assert_eq!(y.len(), ids.len() * k);
    for (&id, y) in ids.iter().zip(y.chunks_exact_mut(k.max(1))) {
        let row = id as usize;
        if row >= n {
            y.fill(0.0);
            continue;
        }
        match *w {
            Weight::Dense(w) => w.slice(row * k..(row + 1) * k).widen_into(y),
            Weight::Affine { bits, group, words, scales, biases } => {
                let bits = bits as usize;
                let words = &words[row * k * bits / 32..(row + 1) * k * bits / 32];
                for (i, y) in y.iter_mut().enumerate() {
                    let (at, g) = (i * bits, (row * k + i) / group);
                    let next = words.get(at / 32 + 1).copied().unwrap_or(0);
                    let window = u64::from(next) << 32 | u64::from(words[at / 32]);
                    let code = (window >> (at % 32)) as u32 & ((1 << bits) - 1);
                    *y = (code as f32).mul_add(scales.get(g), biases.get(g));
                }
            }
        }
    }
}

/// A quantized matrix whose packed rows are seen as bytes.
#[derive(Clone, Copy)]
pub(super) struct Affine<'a> {
    words: &'a [u8],
    pub(super) scales: Floats<'a>,
    pub(super) biases: Floats<'a>,
    pub(super) group: usize,
}

/// The operands that all kinds of weights share.
#[derive(Clone, Copy)]
pub(super) struct Job<'a> {
    pub(super) level: Level,
    pub(super) x: &'a [f32],
    pub(super) bias: Option<Floats<'a>>,
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) y: Out,
}

impl Job<'_> {
    /// Distance of rows in scratch: whole vectors, and an odd number of cache lines so that equal columns
    /// of neighbouring rows do not compete for one cache set.
    fn stride(&self) -> usize {
        (self.k.div_ceil(LANES) | 1) * LANES
    }

    fn grain(&self) -> usize {
        (GRAIN / (self.k * self.m).max(1)).next_multiple_of(4)
    }

    fn dense<E: Element>(self, w: &[E::Raw]) {
        debug_assert_eq!(w.len(), self.n * self.k);
        let stride = self.stride();
        scratch(self.m * stride, |x| {
            self.pack(x, stride, 0);
            let x = &*x;
            if self.m <= 4 {
                parallel(self.n, 4, self.grain(), |rows| {
                    self.level.run(StreamDense::<E> { job: self, w, x, stride, rows });
                });
            } else {
                panels(self, DenseRows::<E>(w), x, stride);
            }
        });
    }

    /// Whether there are tiles and rows enough for them.
    #[cfg(target_arch = "x86_64")]
    fn tiles(&self) -> bool {
        self.level.has_tiles() && self.m >= amx::MIN_ROWS
    }

    fn affine<const BITS: usize>(self, w: Affine<'_>) {
        #[cfg(target_arch = "x86_64")]
        if self.tiles() {
            // SAFETY: a level with tiles exists only where they may be used.
            return unsafe { amx::product(self, amx::AffineRows::<BITS>(w)) };
        }
        let stride = self.stride();
        let groups = (self.k / w.group).next_multiple_of(LANES);
        scratch(self.m * stride + groups, |buffer| {
            let (x, sums) = buffer.split_at_mut(self.m * stride);
            self.pack(x, stride, BITS);
            let x = &*x;
            if self.m == 1 {
                sums.fill(0.0);
                for (sum, x) in sums.iter_mut().zip(self.x.chunks_exact(w.group)) {
                    *sum = x.iter().sum();
                }
                let sums = &*sums;
                parallel(self.n, 4, self.grain(), |rows| {
                    scratch(8 * groups + 4 * spare(self.k, BITS), |buffer| {
                        let (table, spare) = buffer.split_at_mut(8 * groups);
                        self.level.run(StreamAffine::<BITS> { job: self, w, x, sums, table, spare, rows });
                    });
                });
            } else {
                panels(self, AffineRows::<BITS>(w), x, stride);
            }
        });
    }

    /// Copies the activations into scratch rows padded with zeros, in the lane order of `bits`-bit codes.
    fn pack(&self, out: &mut [f32], stride: usize, bits: usize) {
        let out = Out::new(out);
        parallel(self.m, 1, (GRAIN / self.k.max(1)).max(1), |rows| {
            for row in rows {
                // SAFETY: pieces of `parallel` are disjoint rows.
                let out = unsafe { out.slice(row * stride, stride) };
                self.level.run(Pack { x: &self.x[row * self.k..][..self.k], out, bits });
            }
        });
    }

    /// # Safety
    /// Column `col` on of row `row` belongs to the caller.
    #[inline(always)]
    pub(super) unsafe fn write(&self, row: usize, col: usize, values: &[f32], first: bool) {
        // SAFETY: the caller's promise.
        let y = unsafe { self.y.slice(row * self.n + col, values.len()) };
        for (i, (y, &value)) in y.iter_mut().zip(values).enumerate() {
            *y = match self.bias {
                _ if !first => *y + value,
                Some(bias) => value + bias.get(col + i),
                None => value,
            };
        }
    }
}

/// Four rows from `row` on; past the end the last one again, whose result is dropped.
#[inline(always)]
pub(super) fn four(row: usize, end: usize) -> [usize; 4] {
    let last = end - 1;
    [row, (row + 1).min(last), (row + 2).min(last), (row + 3).min(last)]
}

/// All rows, four at a time: one from each quarter, so that a processor's prefetcher sees four streams
/// that each run straight on. A row may come twice at the end.
#[inline(always)]
fn quarters(rows: Range<usize>) -> impl Iterator<Item = [usize; 4]> {
    let (step, last) = (rows.len().div_ceil(4), rows.end - 1);
    (rows.start..rows.start + step)
        .map(move |r| [r, (r + step).min(last), (r + 2 * step).min(last), (r + 3 * step).min(last)])
}

struct Pack<'a> {
    x: &'a [f32],
    out: &'a mut [f32],
    bits: usize,
}

impl Kernel for Pack<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let (body, rest) = self.out.split_at_mut(self.x.len());
        rest.fill(0.0);
        if S::lane(self.bits, 1) == 1 {
            body.copy_from_slice(self.x);
            return;
        }
        // A packed row is whole groups, so whole vectors.
        for (x, out) in self.x.chunks_exact(LANES).zip(body.chunks_exact_mut(LANES)) {
            for l in 0..LANES {
                out[l] = x[S::lane(self.bits, l)];
            }
        }
    }
}

struct StreamDense<'a, E: Element> {
    job: Job<'a>,
    w: &'a [E::Raw],
    x: &'a [f32],
    stride: usize,
    rows: Range<usize>,
}

impl<E: Element> Kernel for StreamDense<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Job { m, k, .. } = self.job;
        let w = self.w.as_ptr();
        let mut out = [[0.0; 4]; 6];
        for r in quarters(self.rows) {
            let mut i = 0;
            while i < m {
                let count = (m - i).min(S::TILE);
                // SAFETY: rows are inside the matrix, `x` was packed with this stride, and these columns of
                // `y` are this piece's.
                unsafe {
                    let w = [w.add(r[0] * k), w.add(r[1] * k), w.add(r[2] * k), w.add(r[3] * k)];
                    let x = self.x.as_ptr().add(i * self.stride);
                    dots_upto6::<S, E>(s, w, x, self.stride, k, count, &mut out);
                    for c in 0..count {
                        for (&r, value) in r.iter().zip(&out[c]) {
                            self.job.write(i + c, r, std::slice::from_ref(value), true);
                        }
                    }
                }
                i += count;
            }
        }
    }
}

/// Floats of scratch that hold a packed row and the bytes that may be read past it.
pub(super) const fn spare(k: usize, bits: usize) -> usize {
    (packed(k, bits) + SLACK).div_ceil(4)
}

impl<'a> Affine<'a> {
    /// The packed row, or a copy of it in `spare` if it is so near the end that there is no slack after it.
    #[inline(always)]
    pub(super) fn row<const BITS: usize>(&self, row: usize, k: usize, spare: &'a mut [f32]) -> *const u8 {
        let bytes = packed(k, BITS);
        let rest = &self.words[row * bytes..];
        if rest.len() >= bytes + SLACK {
            return rest.as_ptr();
        }
        let spare: &mut [u8] = bytemuck::cast_slice_mut(spare);
        spare[..bytes].copy_from_slice(&rest[..bytes]);
        spare.as_ptr()
    }
}

/// Widens `len` values from `at` on, and zeros up to `padded`.
///
/// # Safety
/// `padded` values are writable at `out`.
#[inline(always)]
pub(super) unsafe fn widen_floats<S: Simd>(
    s: S,
    v: Floats<'_>,
    at: usize,
    len: usize,
    padded: usize,
    out: *mut f32,
) {
    // SAFETY: the slices are as long as what is read from them.
    unsafe {
        match v.slice(at..at + len) {
            Floats::F32(v) => widen::<S, F32>(s, v.as_ptr(), len, padded, out),
            Floats::F16(v) => widen::<S, F16>(s, v.as_ptr(), len, padded, out),
            Floats::BF16(v) => widen::<S, BF16>(s, v.as_ptr(), len, padded, out),
        }
    }
}

struct StreamAffine<'a, const BITS: usize> {
    job: Job<'a>,
    w: Affine<'a>,
    x: &'a [f32],
    sums: &'a [f32],
    /// Scales of four rows, then their biases; each row as long as `sums`.
    table: &'a mut [f32],
    spare: &'a mut [f32],
    rows: Range<usize>,
}

impl<const BITS: usize> Kernel for StreamAffine<'_, BITS> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Job { k, .. } = self.job;
        let (group, padded) = (self.w.group, self.sums.len());
        let groups = k / group;
        let (table, slot) = (self.table.as_mut_ptr(), self.spare.len() / 4);
        for four in quarters(self.rows.clone()) {
            let mut w = [std::ptr::null(); 4];
            let mut scales = [table.cast_const(); 4];
            let mut biases = scales;
            for r in 0..4 {
                w[r] = self.w.row::<BITS>(four[r], k, &mut self.spare[r * slot..(r + 1) * slot]);
                // SAFETY: `table` holds eight rows of `padded`.
                unsafe {
                    let (scale, bias) = (table.add(r * padded), table.add((4 + r) * padded));
                    widen_floats(s, self.w.scales, four[r] * groups, groups, padded, scale);
                    widen_floats(s, self.w.biases, four[r] * groups, groups, padded, bias);
                    (scales[r], biases[r]) = (scale, bias);
                }
            }
            // SAFETY: `row` leaves slack after each packed row; the rest was packed for this; these columns
            // of `y` are this piece's.
            unsafe {
                let sums = self.sums.as_ptr();
                let out = affine_dots::<S, BITS>(s, w, scales, biases, self.x.as_ptr(), sums, k, group);
                for (&r, value) in four.iter().zip(&out) {
                    self.job.write(0, r, std::slice::from_ref(value), true);
                }
            }
        }
    }
}
