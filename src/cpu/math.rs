//! Row-wise and elementwise functions: exponentials, norms, gates, softmax.

use super::floats::Floats;
use super::simd::{Kernel, LANES, Level, Simd};
use super::threads::{Out, parallel};
use crate::formula::NO_INDEX;

/// Elements that a piece of elementwise work should hold at least.
const GRAIN: usize = 1 << 14;

/// e^x to about one unit in the last place; 0 below -88, infinity above 88.7.
#[inline(always)]
pub(super) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    let x = s.max(s.splat(-88.0), s.min(s.splat(88.8), x));
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    // ln 2 in two parts, the first short enough that its products are exact.
    let r = s.fma(n, s.splat(-0.693_359_4), x);
    let r = s.fma(n, s.splat(2.121_944_4e-4), r);
    let mut p = s.splat(1.987_569_1e-4);
    p = s.fma(p, r, s.splat(1.398_199_9e-3));
    p = s.fma(p, r, s.splat(8.333_452e-3));
    p = s.fma(p, r, s.splat(4.166_579_6e-2));
    p = s.fma(p, r, s.splat(1.666_666_5e-1));
    p = s.fma(p, r, s.splat(5e-1));
    let p = s.add(s.fma(s.mul(r, r), p, r), s.splat(1.0));
    s.mul(p, s.exp2(n))
}

/// Replaces `row` by `exp(row - max)` and answers the sum.
#[inline(always)]
pub(super) fn exp_sum<S: Simd>(s: S, row: &mut [f32], max: f32) -> f32 {
    let mut total = s.splat(0.0);
    let whole = row.len() - row.len() % S::N;
    let (body, rest) = row.split_at_mut(whole);
    for x in body.chunks_exact_mut(S::N) {
        // SAFETY: a chunk holds `N` values.
        unsafe {
            let e = exp(s, s.sub(s.load(x.as_ptr()), s.splat(max)));
            s.store(x.as_mut_ptr(), e);
            total = s.add(total, e);
        }
    }
    let mut sum = s.sum(total);
    if !rest.is_empty() {
        let mut part = [0.0; LANES];
        part[..rest.len()].copy_from_slice(rest);
        // SAFETY: `part` holds at least `N` values.
        unsafe {
            let e = exp(s, s.sub(s.load(part.as_ptr()), s.splat(max)));
            s.store(part.as_mut_ptr(), e);
        }
        rest.copy_from_slice(&part[..rest.len()]);
        sum += rest.iter().sum::<f32>();
    }
    sum
}

/// Each row of `width` divided by its root mean square, times `w`.
pub(crate) fn rms_norm(x: &[f32], w: Floats<'_>, eps: f32, width: usize, y: &mut [f32]) {
    rms_norm_at(Level::best(), x, w, eps, width, y);
}

pub(super) fn rms_norm_at(level: Level, x: &[f32], w: Floats<'_>, eps: f32, width: usize, y: &mut [f32]) {
    debug_assert_eq!((x.len(), w.len()), (y.len(), width));
    if width == 0 {
        return;
    }
    let out = Out::new(y);
    parallel(x.len() / width, 1, GRAIN / width, |rows| {
        let range = rows.start * width..rows.end * width;
        // SAFETY: pieces of `parallel` are disjoint rows.
        let y = unsafe { out.slice(range.start, range.len()) };
        level.run(RmsNorm { x: &x[range], w, eps, width, y });
    });
}

struct RmsNorm<'a> {
    x: &'a [f32],
    w: Floats<'a>,
    eps: f32,
    width: usize,
    y: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { width, eps, w, .. } = self;
        for (x, y) in self.x.chunks_exact(width).zip(self.y.chunks_exact_mut(width)) {
            let mut squares = s.splat(0.0);
            let mut rest = 0.0;
            for x in x.chunks(S::N) {
                if x.len() == S::N {
                    // SAFETY: the chunk holds `N` values.
                    let v = unsafe { s.load(x.as_ptr()) };
                    squares = s.fma(v, v, squares);
                } else {
                    for x in x {
                        rest += x * x;
                    }
                }
            }
            let mean = (s.sum(squares) + rest) / width as f32;
            let scale = 1.0 / (mean + eps).sqrt();
            match w {
                Floats::F32(w) => scaled(x, w, scale, y, |w| w),
                Floats::F16(w) => scaled(x, w, scale, y, super::floats::widen_f16),
                Floats::BF16(w) => scaled(x, w, scale, y, |w| f32::from_bits(u32::from(w) << 16)),
            }
        }
    }
}

#[inline(always)]
fn scaled<T: Copy>(x: &[f32], w: &[T], scale: f32, y: &mut [f32], widen: impl Fn(T) -> f32) {
    for ((y, x), &w) in y.iter_mut().zip(x).zip(w) {
        *y = x * scale * widen(w);
    }
}

/// Each row of `width` as probabilities.
pub(crate) fn softmax(x: &[f32], width: usize, y: &mut [f32]) {
    softmax_at(Level::best(), x, width, y);
}

pub(super) fn softmax_at(level: Level, x: &[f32], width: usize, y: &mut [f32]) {
    debug_assert_eq!(x.len(), y.len());
    if width == 0 {
        return;
    }
    y.copy_from_slice(x);
    let out = Out::new(y);
    parallel(x.len() / width, 1, GRAIN / width, |rows| {
        // SAFETY: pieces of `parallel` are disjoint rows.
        let y = unsafe { out.slice(rows.start * width, rows.len() * width) };
        level.run(Softmax { width, y });
    });
}

struct Softmax<'a> {
    width: usize,
    y: &'a mut [f32],
}

impl Kernel for Softmax<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for row in self.y.chunks_exact_mut(self.width) {
            let mut max = f32::NEG_INFINITY;
            for &x in &*row {
                max = if x > max { x } else { max };
            }
            let inverse = 1.0 / exp_sum(s, row, max);
            for x in row {
                *x *= inverse;
            }
        }
    }
}

/// The place of the largest value, the first of ties. NaNs do not count; `u32::MAX` if there is nothing else.
pub(crate) fn argmax(row: &[f32]) -> u32 {
    // Lane by lane first, as the compiler vectorises that; then the lane's first place.
    let mut lanes = [f32::NEG_INFINITY; 4 * LANES];
    for chunk in row.chunks(lanes.len()) {
        for (best, &x) in lanes.iter_mut().zip(chunk) {
            *best = if x > *best { x } else { *best };
        }
    }
    let max = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
    row.iter().position(|&x| x == max).map_or(NO_INDEX, |at| at as u32)
}

/// The activation of a gated linear unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    /// x / (1 + e^-x)
    Silu,
    /// The usual approximation of `Gelu` by tanh.
    GeluTanh,
    /// x * (1 + erf(x / sqrt 2)) / 2
    Gelu,
}

/// `y = act(g) * u`.
pub(crate) fn gate(kind: Gate, g: &[f32], u: &[f32], y: &mut [f32]) {
    gate_at(Level::best(), kind, g, u, y);
}

pub(super) fn gate_at(level: Level, kind: Gate, g: &[f32], u: &[f32], y: &mut [f32]) {
    debug_assert_eq!((g.len(), u.len()), (y.len(), y.len()));
    elementwise(y, |at, y| {
        let (g, u) = (&g[at..][..y.len()], &u[at..][..y.len()]);
        level.run(Gated { kind, g, u, y });
    });
}

/// Pieces of `y`, in parallel, each with its place.
fn elementwise(y: &mut [f32], body: impl Fn(usize, &mut [f32]) + Sync) {
    let out = Out::new(y);
    parallel(y.len(), LANES, GRAIN, |range| {
        // SAFETY: pieces of `parallel` are disjoint.
        body(range.start, unsafe { out.slice(range.start, range.len()) });
    });
}

struct Gated<'a> {
    kind: Gate,
    g: &'a [f32],
    u: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Gated<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for ((g, u), y) in self.g.chunks(S::N).zip(self.u.chunks(S::N)).zip(self.y.chunks_mut(S::N)) {
            let mut part = [0.0; LANES];
            part[..g.len()].copy_from_slice(g);
            let mut units = [0.0; LANES];
            units[..u.len()].copy_from_slice(u);
            // SAFETY: the arrays hold at least `N` values.
            unsafe {
                let (g, u) = (s.load(part.as_ptr()), s.load(units.as_ptr()));
                let act = match self.kind {
                    Gate::Silu => sigmoid_times(s, g, g),
                    Gate::GeluTanh => {
                        let cubic = s.fma(s.mul(s.mul(g, g), g), s.splat(0.044_715), g);
                        sigmoid_times(s, s.mul(cubic, s.splat(1.595_769)), g)
                    }
                    Gate::Gelu => gelu(s, g),
                };
                s.store(part.as_mut_ptr(), s.mul(act, u));
            }
            y.copy_from_slice(&part[..y.len()]);
        }
    }
}

/// g / (1 + e^-x)
#[inline(always)]
fn sigmoid_times<S: Simd>(s: S, x: S::V, g: S::V) -> S::V {
    s.div(g, s.add(exp(s, s.sub(s.splat(0.0), x)), s.splat(1.0)))
}

/// g * erfc(-g / sqrt 2) / 2, by a Chebyshev fit of erfc that is good to 1.2e-7 of its value.
#[inline(always)]
fn gelu<S: Simd>(s: S, g: S::V) -> S::V {
    const FIT: [f32; 10] = [
        0.170_872_77,
        -0.822_152_2,
        1.488_515_9,
        -1.135_204,
        0.278_868_07,
        -0.186_288_06,
        0.096_784_18,
        0.374_091_96,
        1.000_023_7,
        -1.265_512_2,
    ];
    let zero = s.splat(0.0);
    let z = s.mul(g, s.splat(std::f32::consts::FRAC_1_SQRT_2));
    let positive = s.max(s.sub(zero, z), z);
    let t = s.div(s.splat(1.0), s.fma(positive, s.splat(0.5), s.splat(1.0)));
    let mut p = s.splat(FIT[0]);
    for &c in &FIT[1..] {
        p = s.fma(p, t, s.splat(c));
    }
    let erfc = s.mul(t, exp(s, s.sub(p, s.mul(positive, positive))));
    // Half of erfc(|z|) is the tail: gelu is g - g * tail on the right and g * tail on the left.
    let tail = s.mul(s.mul(erfc, s.splat(0.5)), s.max(s.sub(zero, g), g));
    s.sub(s.max(zero, g), tail)
}

/// An elementwise function of two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Max,
    Min,
}

/// `y = a (kind) b`, all of one length.
pub(crate) fn binary(kind: Binary, a: &[f32], b: &[f32], y: &mut [f32]) {
    debug_assert_eq!((a.len(), b.len()), (y.len(), y.len()));
    elementwise(y, |at, y| {
        let (a, b) = (&a[at..][..y.len()], &b[at..][..y.len()]);
        match kind {
            Binary::Add => zip(a, b, y, |a, b| a + b),
            Binary::Sub => zip(a, b, y, |a, b| a - b),
            Binary::Mul => zip(a, b, y, |a, b| a * b),
            Binary::Div => zip(a, b, y, |a, b| a / b),
            Binary::Max => zip(a, b, y, f32::max),
            Binary::Min => zip(a, b, y, f32::min),
        }
    });
}

#[inline]
fn zip(a: &[f32], b: &[f32], y: &mut [f32], f: impl Fn(f32, f32) -> f32) {
    for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
        *y = f(a, b);
    }
}
