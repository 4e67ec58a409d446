//! The formula of packed rows: rotation, codes, scales, and back. It is what kernels are compared with, bit by bit.

use crate::array::MLXArray;
use crate::cpu::{PACKED_BLOCK as BLOCK, Packing, rotation_norm};
use crate::dtype::Dtype;

fn word(value: u32) -> MLXArray {
    MLXArray::scalar_u32(value)
}

/// Two arrays `[n, a]` and `[n, b]` of words side by side.
fn beside(x: &MLXArray, y: &MLXArray) -> MLXArray {
    let (a, b) = (x.dims()[1], y.dims()[1]);
    let i = MLXArray::iota(a + b);
    // An index past the end, here also one before the start, reads 0.
    &x.take(&i, 1) | &y.take(&(&i - &word(a as u32)), 1)
}

/// The fixed signs of a rotation, `[1, d]`, as factors.
pub(super) fn signs(d: usize) -> MLXArray {
    let i = MLXArray::iota(d);
    let chirp = &(&i * &(&i + &word(1))) * &word(0x9e37_79b1);
    let minus = &chirp.shr(&word(16)) & &word(1);
    MLXArray::scalar(-1.0).where_(&minus, &MLXArray::scalar(1.0)).reshape(&[1, d])
}

/// `H x` along the last axis of `[n, d]`.
pub(super) fn transformed(x: &MLXArray) -> MLXArray {
    let [n, d] = *x.dims() else { panic!("rotation of {}", x.spec()) };
    let mut y = x.clone();
    let block = 1usize << d.trailing_zeros();
    let first = MLXArray::iota(2).equal(&word(0)).reshape(&[2, 1]);
    let mut half = 1;
    while half < block {
        let pairs = y.reshape(&[n, d / (2 * half), 2, half]);
        let (a, b) = (pairs.slice(2, 0, 1), pairs.slice(2, 1, 1));
        y = (&a + &b).where_(&first, &(&a - &b)).reshape(&[n, d]);
        half *= 2;
    }
    &y * rotation_norm(block)
}

/// Rows `[rows, words]` one after another, of a cache that has tiles of them; `codes` of their words are codes.
pub(super) fn apart(packing: Packing, codes: usize, cache: &MLXArray) -> MLXArray {
    let [rows, words] = *cache.dims() else { panic!("a cache of {}", cache.spec()) };
    let [n, each] = packing.tile;
    let tiles = cache.reshape(&[rows / n, words * n]);
    let part = |first: usize, count: usize, each: usize| {
        let part = tiles.slice(1, first * n, count * n).reshape(&[rows / n, count / each, n, each]);
        part.transpose(&[0, 2, 1, 3]).reshape(&[rows, count])
    };
    beside(&part(0, codes, each), &part(codes, words - codes, 1))
}

/// The opposite of [`apart`].
pub(super) fn together(packing: Packing, codes: usize, x: &MLXArray) -> MLXArray {
    let [rows, words] = *x.dims() else { panic!("rows of {}", x.spec()) };
    let [n, each] = packing.tile;
    let part = |first: usize, count: usize, each: usize| {
        let part = x.slice(1, first, count).reshape(&[rows / n, n, count / each, each]);
        part.transpose(&[0, 2, 1, 3]).reshape(&[rows / n, count * n])
    };
    beside(&part(0, codes, each), &part(codes, words - codes, 1)).reshape(&[rows, words])
}

/// Rows of words `[t, row_words]` from heads `[t, heads, d]`, in their basis already.
pub(super) fn pack(packing: Packing, x: &MLXArray) -> MLXArray {
    let [t, heads, d] = *x.dims() else { panic!("packing of {}", x.spec()) };
    let x = x.reshape(&[t * heads, d]);
    let x = if packing.affine { x } else { transformed(&x) };
    let groups = packing.groups(d);
    let x = x.take(&MLXArray::iota(groups * packing.group), 1).reshape(&[t * heads, groups, packing.group]);
    let (codes, scale, bias) = if packing.affine { affine(packing, &x) } else { grid(packing, &x) };
    let codes = codes.reshape(&[t * heads, groups * packing.group]).slice(1, 0, d);
    let blocks = d.div_ceil(BLOCK);
    let codes = codes.take(&MLXArray::iota(blocks * BLOCK), 1).reshape(&[t * heads * blocks, BLOCK]);
    let mut words: Option<MLXArray> = None;
    for (width, shift) in packing.planes() {
        let per_word = BLOCK / width as usize;
        let codes = codes.reshape(&[t * heads * blocks, width as usize, per_word]);
        let codes = &codes.shr(&word(shift)) & &word((1 << width) - 1);
        let plane = (0..per_word).map(|i| {
            let place = width * (i as u32 / 4) + 8 * (i as u32 % 4);
            codes.slice(2, i, 1).shl(&word(place)).reshape(&[t * heads * blocks, width as usize])
        });
        let plane = plane.reduce(|a, b| &a | &b);
        words = match (words, plane) {
            (Some(words), Some(plane)) => Some(beside(&words, &plane)),
            (words, plane) => words.or(plane),
        };
    }
    let Some(words) = words else { panic!("{packing:?} has no bits") };
    let words = words.reshape(&[t, heads * packing.head_words(d)]);
    let n = heads * groups;
    let scales = match bias {
        Some(bias) => {
            let one = |x: &MLXArray| single_bits(&x.reshape(&[t * n, 1]));
            beside(&one(&scale), &one(&bias)).reshape(&[t, 2 * n])
        }
        None => {
            let pairs = n.div_ceil(2);
            let bits = half_bits(&scale.reshape(&[t, n])).take(&MLXArray::iota(2 * pairs), 1);
            let bits = bits.reshape(&[t, pairs, 2]);
            (&bits.slice(2, 0, 1) | &bits.slice(2, 1, 1).shl(&word(16))).reshape(&[t, pairs])
        }
    };
    beside(&words, &scales)
}

/// Codes and scales of groups `[n, groups, group]`.
fn grid(packing: Packing, x: &MLXArray) -> (MLXArray, MLXArray, Option<MLXArray>) {
    let (edge, zero) = (packing.edge(), MLXArray::scalar(0.0));
    let top = MLXArray::scalar(packing.top() as f32);
    let clamp = |u: &MLXArray| u.maximum(&zero).minimum(&top);
    let scale = (&x.abs().max(2) * packing.reach()).astype(Dtype::F16).astype(Dtype::F32);
    let some = zero.less(&scale);
    let inverse =
        (&MLXArray::scalar(1.0) / &scale.where_(&some, &MLXArray::scalar(1.0))).where_(&some, &zero);
    let u = clamp(&(&(x * &inverse) + edge).floor());
    // The quotient may be off by a rounding; these products are not.
    let above = (&scale * &(&(&u + 1.0) - edge)).less_equal(x);
    let u = (&u + 1.0).where_(&above, &u);
    let below = x.less(&(&scale * &(&u - edge)));
    let u = (&u - 1.0).where_(&below, &u);
    (clamp(&u).astype(Dtype::U32), scale, None)
}

/// mlx's affine quantizer.
fn affine(packing: Packing, x: &MLXArray) -> (MLXArray, MLXArray, Option<MLXArray>) {
    let (zero, top) = (MLXArray::scalar(0.0), packing.top() as f32);
    let (low, high) = (x.min(2), x.max(2));
    let side = high.abs().less(&low.abs());
    let edge = low.where_(&side, &high);
    let step = (&(&high - &low) / &MLXArray::scalar(top)).maximum(&MLXArray::scalar(1e-7));
    let step = step.where_(&side, &-&step);
    let whole = nearest(&(&edge / &step));
    let none = whole.equal(&zero);
    let scale = step.where_(&none, &(&edge / &MLXArray::scalar(1.0).where_(&none, &whole)));
    let bias = zero.where_(&none, &edge);
    let codes = nearest(&(&(x - &bias) / &scale)).maximum(&zero).minimum(&MLXArray::scalar(top));
    (codes.astype(Dtype::U32), scale, Some(bias))
}

/// The nearest whole number, the even one of two.
fn nearest(x: &MLXArray) -> MLXArray {
    let down = x.floor();
    let rest = x - &down;
    let half = MLXArray::scalar(0.5);
    let odd = (&down - &(&(&down * 0.5).floor() * 2.0)).equal(&MLXArray::scalar(1.0));
    let up = &half.less(&rest) | &(&half.equal(&rest) & &odd);
    (&down + 1.0).where_(&up, &down)
}

/// Bits of numbers that are halves and not negative.
fn half_bits(x: &MLXArray) -> MLXArray {
    let (mut y, mut exponent) = (x * (1 << 24) as f32, word(0));
    for k in [16u32, 8, 4, 2, 1] {
        let big = MLXArray::scalar((1u64 << (10 + k)) as f32).less_equal(&y);
        y = (&y * 0.5f32.powi(k as i32)).where_(&big, &y);
        exponent = &exponent + &word(k).where_(&big, &word(0));
    }
    &exponent.shl(&word(10)) + &y.astype(Dtype::U32)
}

fn power(exponent: &MLXArray, bits: &[u32]) -> MLXArray {
    bits.iter().fold(MLXArray::scalar(1.0), |p, &k| {
        let factor =
            MLXArray::scalar(2f32.powi(k as i32)).where_(&(exponent & &word(k)), &MLXArray::scalar(1.0));
        &p * &factor
    })
}

/// The halves of these bits, not negative.
fn half_of(bits: &MLXArray) -> MLXArray {
    let (exponent, rest) = (bits.shr(&word(10)), (bits & &word(1023)).astype(Dtype::F32));
    let normal = &(&(&rest + 1024.0) * 0.5f32.powi(24)) * &power(&(&exponent - &word(1)), &[16, 8, 4, 2, 1]);
    (&rest * 0.5f32.powi(24)).where_(&exponent.equal(&word(0)), &normal)
}

/// Bits of numbers of magnitudes from 2^-62 to 2^64; smaller ones count as 0.
fn single_bits(x: &MLXArray) -> MLXArray {
    let (mut y, mut exponent) = (&x.abs() * 2f32.powi(62), word(127 - 62));
    let some = MLXArray::scalar(1.0).less_equal(&y);
    for k in [64u32, 32, 16, 8, 4, 2, 1] {
        let big = MLXArray::scalar(2f32.powi(k as i32)).less_equal(&y);
        y = (&y * 0.5f32.powi(k as i32)).where_(&big, &y);
        exponent = &exponent + &word(k).where_(&big, &word(0));
    }
    let rest = (&(&y - 1.0) * (1 << 23) as f32).astype(Dtype::U32);
    let sign = x.less(&MLXArray::scalar(0.0)).shl(&word(31));
    (&(&exponent.shl(&word(23)) | &rest) | &sign).where_(&some, &word(0))
}

/// The numbers of these bits, of magnitudes as above.
fn single_of(bits: &MLXArray) -> MLXArray {
    let exponent = &bits.shr(&word(23)) & &word(255);
    let rest = (bits & &word((1 << 23) - 1)).astype(Dtype::F32);
    let x = &(&(&rest + (1 << 23) as f32) * 0.5f32.powi(85))
        * &power(&(&exponent - &word(65)), &[64, 32, 16, 8, 4, 2, 1]);
    let x = (-&x).where_(&bits.shr(&word(31)), &x);
    MLXArray::scalar(0.0).where_(&exponent.equal(&word(0)), &x)
}

/// Heads `[rows, heads, d]` from rows of words, still rotated.
pub(super) fn unpack(packing: Packing, words: &MLXArray, heads: usize, d: usize) -> MLXArray {
    let rows = words.dims()[0];
    let (blocks, groups) = (d.div_ceil(BLOCK), packing.groups(d));
    let code_words = heads * packing.head_words(d);
    let packed = words.slice(1, 0, code_words).reshape(&[rows * heads * blocks, packing.bits as usize]);
    let e = MLXArray::iota(BLOCK);
    let (j, lane) = (e.shr(&word(2)), &e & &word(3));
    let (mut codes, mut at) = (word(0), 0);
    for (width, shift) in packing.planes() {
        let per_word = 8 / width;
        let index = &j.shr(&word(per_word.ilog2())) + &word(at);
        let place = &(&(&j & &word(per_word - 1)) * &word(width)) + &(&lane * &word(8));
        let plane = &packed.take(&index, 1).shr(&place) & &word((1 << width) - 1);
        codes = &codes | &plane.shl(&word(shift));
        at += width;
    }
    let codes = codes.reshape(&[rows, heads, blocks * BLOCK]).slice(2, 0, d).astype(Dtype::F32);
    let n = heads * groups;
    let group_of = MLXArray::iota(d).shr(&word(packing.group.ilog2()));
    let spread = |x: &MLXArray| x.reshape(&[rows, heads, groups]).take(&group_of, 2);
    let scales = words.slice(1, code_words, packing.row_words(heads, d) - code_words);
    if packing.affine {
        let numbers = single_of(&scales).reshape(&[rows, n, 2]);
        let [scale, bias] = [0, 1].map(|i| spread(&numbers.slice(2, i, 1)));
        return &(&scale * &codes) + &bias;
    }
    let g = MLXArray::iota(n);
    let bits = scales.take(&g.shr(&word(1)), 1).shr(&(&(&g & &word(1)) * &word(16)));
    let scale = spread(&half_of(&(&bits & &word(0xffff))));
    &scale * &(&codes - packing.zero())
}
