//! The register tiles under every product: four weight rows against a few activation rows.
//!
//! Both operands are read along `k`, as they lie in memory, so neither needs transposing; the lanes of an
//! accumulator are summed once at the end.

use super::floats::Element;
use super::simd::Simd;

/// How many bytes before its use a streamed weight is asked for.
const AHEAD: usize = 1024;

/// `out[i][r]` = w\[r\] . x row `i`, both `k` long.
///
/// # Safety
/// `k` values are readable at each `w`, and from `x + i * stride` on (rounded up to whole vectors, with
/// zeros past `k`) for each `i < M`.
#[inline(always)]
pub(super) unsafe fn dots<S: Simd, E: Element, const M: usize>(
    s: S,
    w: [*const E::Raw; 4],
    x: *const f32,
    stride: usize,
    k: usize,
) -> [[f32; 4]; M] {
    let mut acc = [[s.splat(0.0); 4]; M];
    let whole = k - k % S::N;
    let mut c = 0;
    while c < whole {
        // SAFETY: c + N <= k.
        unsafe {
            let mut xs = [s.splat(0.0); M];
            for i in 0..M {
                xs[i] = s.load(x.add(i * stride + c));
            }
            for r in 0..4 {
                let v = E::load(s, w[r].add(c));
                for i in 0..M {
                    acc[i][r] = s.fma(v, xs[i], acc[i][r]);
                }
            }
        }
        c += S::N;
    }
    if whole < k {
        for r in 0..4 {
            // SAFETY: the rest of the row; the activations are padded to a whole vector.
            unsafe {
                let v = E::load_part(s, w[r].add(whole), k - whole);
                for i in 0..M {
                    acc[i][r] = s.fma(v, s.load(x.add(i * stride + whole)), acc[i][r]);
                }
            }
        }
    }
    let mut out = [[0.0; 4]; M];
    for i in 0..M {
        out[i] = s.sums(acc[i]);
    }
    out
}

/// Four affine rows against one activation row: `sum over groups of scale * (codes . x) + bias * sum(x)`.
/// The codes are never multiplied out, and `sums`, the activations' sum per group, is shared by all rows.
/// Weights are asked for [`AHEAD`] of their use.
///
/// # Safety
/// `k * BITS / 8 + SLACK` bytes are readable at each `w`, `k` values at `x` (in the order of
/// [`Simd::lane`]), `k / group` (rounded up to whole vectors) at `sums` and at each of `scales` and
/// `biases`, whose padding is finite and meets zeros in `sums`.
#[allow(clippy::too_many_arguments, reason = "the formula's operands and sizes")]
#[inline(always)]
pub(super) unsafe fn affine_dots<S: Simd, const BITS: usize>(
    s: S,
    w: [*const u8; 4],
    scales: [*const f32; 4],
    biases: [*const f32; 4],
    x: *const f32,
    sums: *const f32,
    k: usize,
    group: usize,
) -> [f32; 4] {
    let mut acc = [s.splat(0.0); 4];
    let groups = k / group;
    let mut g = 0;
    while g < groups {
        // SAFETY: g < groups, and the arrays are padded to whole vectors.
        unsafe {
            let sum = s.load(sums.add(g));
            for r in 0..4 {
                acc[r] = s.fma(s.load(biases[r].add(g)), sum, acc[r]);
            }
        }
        g += S::N;
    }
    let mut at = 0;
    let mut x = x;
    for g in 0..groups {
        let mut part = [s.splat(0.0); 4];
        for _ in 0..group / (2 * S::N) {
            // SAFETY: groups are whole pairs of vectors, and together no longer than the row.
            unsafe {
                let (first, second) = (s.load(x), s.load(x.add(S::N)));
                for r in 0..4 {
                    let w = w[r].add(at);
                    part[r] = s.fma(s.codes::<BITS>(w), first, part[r]);
                    part[r] = s.fma(s.codes::<BITS>(w.add(packed(S::N, BITS))), second, part[r]);
                }
                x = x.add(2 * S::N);
            }
            at += packed(2 * S::N, BITS);
        }
        for r in 0..4 {
            s.prefetch(w[r].wrapping_add(at + AHEAD));
            // SAFETY: g < groups.
            acc[r] = s.fma(s.splat(unsafe { *scales[r].add(g) }), part[r], acc[r]);
        }
    }
    s.sums(acc)
}

/// One affine row multiplied out, in the order of [`Simd::lane`].
///
/// # Safety
/// As for [`affine_dots`]; `k` values are writable at `out`.
#[inline(always)]
pub(super) unsafe fn affine_widen<S: Simd, const BITS: usize>(
    s: S,
    w: *const u8,
    scales: *const f32,
    biases: *const f32,
    k: usize,
    group: usize,
    out: *mut f32,
) {
    for g in 0..k / group {
        // SAFETY: g < k / group.
        let (scale, bias) = unsafe { (s.splat(*scales.add(g)), s.splat(*biases.add(g))) };
        let mut c = g * group;
        let end = c + group;
        while c < end {
            // SAFETY: c + N <= k, as groups are whole vectors.
            unsafe { s.store(out.add(c), s.fma(s.codes::<BITS>(w.add(c * BITS / 8)), scale, bias)) };
            c += S::N;
        }
    }
}

/// A row of any stored type as `f32`, padded with zeros to `padded`, a multiple of the vector.
///
/// # Safety
/// `k` values are readable at `w`, `padded >= k` writable at `out`.
#[inline(always)]
pub(super) unsafe fn widen<S: Simd, E: Element>(
    s: S,
    w: *const E::Raw,
    k: usize,
    padded: usize,
    out: *mut f32,
) {
    let mut c = 0;
    while c + S::N <= k {
        // SAFETY: c + N <= k <= padded.
        unsafe { s.store(out.add(c), E::load(s, w.add(c))) };
        c += S::N;
    }
    while c < padded {
        // SAFETY: c + N <= padded, and no more than the rest of the row is read.
        unsafe { s.store(out.add(c), E::load_part(s, w.add(c.min(k)), k.saturating_sub(c))) };
        c += S::N;
    }
}

/// `y[i, 0..N*D] += sum over j of p[i, j] * v[j, 0..N*D]`: attention's weighted sum of values.
///
/// # Safety
/// `rows` rows of `N * D` values are readable at `v`, `M` rows of `rows` values at `p`, `M` rows of
/// `N * D` are writable at `y`; each with its stride.
#[inline(always)]
pub(super) unsafe fn weighted<S: Simd, E: Element, const M: usize, const D: usize>(
    s: S,
    (p, p_stride): (*const f32, usize),
    (v, v_stride): (*const E::Raw, usize),
    rows: usize,
    (y, y_stride): (*mut f32, usize),
) {
    let mut acc = [[s.splat(0.0); D]; M];
    for i in 0..M {
        for d in 0..D {
            // SAFETY: the caller's promise.
            acc[i][d] = unsafe { s.load(y.add(i * y_stride + d * S::N)) };
        }
    }
    for j in 0..rows {
        let mut vs = [s.splat(0.0); D];
        for d in 0..D {
            // SAFETY: j < rows.
            vs[d] = unsafe { E::load(s, v.add(j * v_stride + d * S::N)) };
        }
        for i in 0..M {
            // SAFETY: j < rows.
            let weight = s.splat(unsafe { *p.add(i * p_stride + j) });
            for d in 0..D {
                acc[i][d] = s.fma(weight, vs[d], acc[i][d]);
            }
        }
    }
    for i in 0..M {
        for d in 0..D {
            // SAFETY: the caller's promise.
            unsafe { s.store(y.add(i * y_stride + d * S::N), acc[i][d]) };
        }
    }
}

/// [`dots`] for `m <= 6` rows known only at run time, on `f32` weights or any others.
///
/// # Safety
/// As for [`dots`].
#[inline(always)]
pub(super) unsafe fn dots_upto6<S: Simd, E: Element>(
    s: S,
    w: [*const E::Raw; 4],
    x: *const f32,
    stride: usize,
    k: usize,
    m: usize,
    out: &mut [[f32; 4]; 6],
) {
    // SAFETY: the caller's promise.
    unsafe {
        match m {
            1 => out[..1].copy_from_slice(&dots::<S, E, 1>(s, w, x, stride, k)),
            2 => out[..2].copy_from_slice(&dots::<S, E, 2>(s, w, x, stride, k)),
            3 => out[..3].copy_from_slice(&dots::<S, E, 3>(s, w, x, stride, k)),
            4 => out[..4].copy_from_slice(&dots::<S, E, 4>(s, w, x, stride, k)),
            5 => out[..5].copy_from_slice(&dots::<S, E, 5>(s, w, x, stride, k)),
            _ => out.copy_from_slice(&dots::<S, E, 6>(s, w, x, stride, k)),
        }
    }
}

/// Bytes of a row of `k` packed elements.
pub(super) const fn packed(k: usize, bits: usize) -> usize {
    k * bits / 8
}
