//! Rows of keys or values in a few bits per value.
//!
//! A row holds the codes of all heads, then the scales of all heads. 32 values of a head take `bits` words, as
//! planes of 8, 4, 2 and 1 bits: value `4 j + l` lies in byte `l`, so that four neighbours are unpacked
//! together. Codes follow from comparisons with exact products of a half-precision scale and a small number,
//! so that every machine finds the same.
//!
//! Rows lie one after another, or in tiles of several, whose words of one kind lie side by side.

use super::floats::widen_f16;
use super::pages::{Place, row_at};
use super::threads::{Out, parallel, scratch};
use half::f16;
use std::borrow::Cow;

/// How keys or values are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Packing {
    /// Bits of a code: 2 to 5 or 8.
    pub bits: u32,
    /// Neighbours in a head that share a scale, a multiple of 32.
    pub group: usize,
    /// `scale * code + bias`, both f32, as mlx-lm's cache; otherwise heads are rotated, the scale is f16 and a
    /// code stands for the middle of its cell.
    pub affine: bool,
    /// Rows of a tile, which divides a page of 128, and how many words of codes of one of them lie side by side, then as many
    /// of the next. `[1, 1]` is row after row. Of scales each row has one word there.
    pub tile: [usize; 2],
}

/// Values whose codes fill whole words.
pub(crate) const BLOCK: usize = 32;

impl Packing {
    /// Rotated heads, one f16 scale for 64 values.
    pub const fn rotated(bits: u32) -> Self {
        Self { bits, group: 64, affine: false, tile: [1, 1] }
    }

    /// mlx-lm's affine quantization.
    pub const fn affine(bits: u32, group: usize) -> Self {
        Self { bits, group, affine: true, tile: [1, 1] }
    }

    /// The same in tiles of 16 rows, as products of matrices take them: of keys two words at a time.
    pub const fn tiled(self, values: bool) -> Self {
        Self { tile: [16, if values { 1 } else { 2 }], ..self }
    }

    /// Where word `w` of a row is, in a cache of rows of `words` words, of which the first `codes` are codes.
    pub(crate) const fn at(self, row: usize, [words, codes]: [usize; 2], w: usize) -> usize {
        let [rows, each] = self.tile;
        let each = if w < codes { each } else { 1 };
        (row / rows * words + w / each * each) * rows + row % rows * each + w % each
    }

    /// Words of a row of `heads` heads, and how many of them are codes.
    pub(crate) const fn sizes(self, heads: usize, d: usize) -> [usize; 2] {
        [self.row_words(heads, d), heads * self.head_words(d)]
    }

    /// A row of a cache; `here` takes one whose words are apart.
    #[inline(always)]
    pub(crate) fn row<'a>(
        self,
        cache: &'a [u32],
        row: usize,
        sizes: [usize; 2],
        here: &'a mut Vec<u32>,
    ) -> &'a [u32] {
        if self.tile[0] == 1 {
            return &cache[row * sizes[0]..][..sizes[0]];
        }
        here.clear();
        here.extend((0..sizes[0]).map(|w| cache[self.at(row, sizes, w)]));
        here
    }

    /// Words of the codes of one head of `d` values.
    pub const fn head_words(self, d: usize) -> usize {
        self.bits as usize * d.div_ceil(BLOCK)
    }

    /// Groups of one head.
    pub const fn groups(self, d: usize) -> usize {
        d.div_ceil(if self.group > 0 { self.group } else { 1 })
    }

    /// Words of a row of `heads` heads.
    pub const fn row_words(self, heads: usize, d: usize) -> usize {
        let scales = heads * self.groups(d);
        heads * self.head_words(d) + if self.affine { 2 * scales } else { scales.div_ceil(2) }
    }

    /// Scale of a group relative to its greatest magnitude. Below 4 bits a little is cut off: the values are
    /// nearly normal after rotation, and finer steps gain more than the few beyond the last lose.
    pub const fn reach(self) -> f32 {
        match self.bits {
            8 => 1.0 / 127.0,
            5 => 1.0 / 16.0,
            4 => 1.0 / 8.0,
            3 => 0.9 / 4.0,
            _ => 0.77 / 2.0,
        }
    }

    /// Code `u` is of values from `scale * (u - edge)` on.
    pub const fn edge(self) -> f32 {
        if self.bits == 8 { 128.5 } else { (1 << (self.bits - 1)) as f32 }
    }

    /// Code `u` stands for `scale * (u - zero)`; nothing is taken off where there are biases.
    pub const fn zero(self) -> f32 {
        if self.affine { 0.0 } else { self.edge() - 0.5 }
    }

    /// The greatest code.
    pub const fn top(self) -> u32 {
        (1 << self.bits) - 1
    }

    /// Widths of planes, first to last, and how far their bits are to the left in a code.
    pub(crate) fn planes(self) -> impl Iterator<Item = (u32, u32)> {
        let bits = self.bits;
        [8u32, 4, 2, 1].into_iter().filter(move |w| bits & w != 0).map(move |w| (w, bits & !(2 * w - 1)))
    }

    fn code(self, x: f32, scale: f32, inverse: f32) -> u32 {
        let (edge, top) = (self.edge(), self.top() as f32);
        let mut u = (x * inverse + edge).floor().clamp(0.0, top);
        // The quotient may be off by a rounding; these products are not.
        if x >= scale * (u + 1.0 - edge) {
            u += 1.0;
        }
        if x < scale * (u - edge) {
            u -= 1.0;
        }
        u.clamp(0.0, top) as u32
    }

    /// Codes, scale and bias of one group.
    fn quantize(self, x: &[f32], codes: &mut [u32]) -> (f32, f32) {
        if !self.affine {
            let most = x.iter().fold(0f32, |a, x| a.max(x.abs()));
            let scale = f16::from_f32(most * self.reach()).to_f32();
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            for (x, code) in x.iter().zip(codes) {
                *code = self.code(*x, scale, inverse);
            }
            return (scale, 0.0);
        }
        let low = x.iter().fold(f32::INFINITY, |a, x| a.min(*x));
        let high = x.iter().fold(f32::NEG_INFINITY, |a, x| a.max(*x));
        let (edge, step) =
            (if low.abs() > high.abs() { low } else { high }, (high - low) / self.top() as f32);
        let step = if low.abs() > high.abs() { step.max(1e-7) } else { -step.max(1e-7) };
        let whole = (edge / step).round_ties_even();
        let (scale, bias) = if whole == 0.0 { (step, 0.0) } else { (edge / whole, edge) };
        for (x, code) in x.iter().zip(codes) {
            *code = ((x - bias) / scale).round_ties_even().clamp(0.0, self.top() as f32) as u32;
        }
        (scale, bias)
    }

    /// Codes of 32 values as words.
    fn pack(self, codes: &[u32], words: &mut [u32]) {
        words.fill(0);
        let mut words = words.iter_mut();
        for (width, shift) in self.planes() {
            let per_word = (8 / width) as usize * 4;
            let mask = (1u32 << width) - 1;
            for (codes, word) in codes.chunks_exact(per_word).zip(words.by_ref().take(width as usize)) {
                for (i, code) in codes.iter().enumerate() {
                    *word |= (code >> shift & mask) << (width * (i as u32 / 4) + 8 * (i as u32 % 4));
                }
            }
        }
    }

    /// 32 codes from words.
    #[inline(always)]
    fn unpack(self, words: &[u32], codes: &mut [u32; BLOCK]) {
        codes.fill(0);
        let mut at = 0;
        for (width, shift) in self.planes() {
            let mask = 0x0101_0101 * ((1u32 << width) - 1);
            for (j, four) in codes.chunks_exact_mut(4).enumerate() {
                let (per_word, j) = (8 / width, j as u32);
                let lanes = words[at + (j / per_word) as usize] >> (width * (j % per_word)) & mask;
                for (l, code) in four.iter_mut().enumerate() {
                    *code |= (lanes >> (8 * l) & 255) << shift;
                }
            }
            at += width as usize;
        }
    }

    /// The `d` values of head `head` of a row of `heads`, still rotated.
    #[inline(always)]
    pub(crate) fn read_head(self, row: &[u32], heads: usize, head: usize, d: usize, out: &mut [f32]) {
        let (words, groups, zero) = (self.head_words(d), self.groups(d), self.zero());
        let scales = &row[heads * words..];
        let row = &row[head * words..][..words];
        let mut codes = [0; BLOCK];
        for ((i, words), out) in
            row.chunks_exact(self.bits as usize).enumerate().zip(out[..d].chunks_mut(BLOCK))
        {
            let g = head * groups + i * BLOCK / self.group;
            let (scale, bias) = if self.affine {
                (f32::from_bits(scales[2 * g]), f32::from_bits(scales[2 * g + 1]))
            } else {
                (widen_f16((scales[g / 2] >> (16 * (g % 2))) as u16), 0.0)
            };
            self.unpack(words, &mut codes);
            for (out, code) in out.iter_mut().zip(&codes) {
                *out = scale * (*code as f32 - zero) + bias;
            }
        }
    }

    /// A row of heads of `d` values, already in their basis, as words. The values are changed: transformed.
    fn write_row(self, x: &mut [f32], d: usize, row: &mut [u32]) {
        row.fill(0);
        let heads = x.len() / d;
        let (words, groups) = (self.head_words(d), self.groups(d));
        let (row, scales) = row.split_at_mut(heads * words);
        let mut codes = [0; BLOCK];
        for (h, x) in x.chunks_exact_mut(d).enumerate() {
            if !self.affine {
                transform(x);
            }
            let row = &mut row[h * words..][..words];
            for (g, x) in x.chunks(self.group).enumerate() {
                let mut all = [0u32; 256];
                let all = &mut all[..x.len()];
                let (scale, bias) = self.quantize(x, all);
                let at = h * groups + g;
                if self.affine {
                    (scales[2 * at], scales[2 * at + 1]) = (scale.to_bits(), bias.to_bits());
                } else {
                    scales[at / 2] |= u32::from(f16::from_f32(scale).to_bits()) << (16 * (at % 2));
                }
                let bits = self.bits as usize;
                let row = &mut row[g * self.group / BLOCK * bits..];
                for (all, words) in all.chunks(BLOCK).zip(row.chunks_exact_mut(bits)) {
                    codes.fill(0);
                    codes[..all.len()].copy_from_slice(all);
                    self.pack(&codes, words);
                }
            }
        }
    }
}

/// Rows of a basis `[BASIS_ROWS, kv_heads * d]`: what is taken off keys, and factors of keys, of queries, of values and of
/// results, which have the rotation's fixed signs.
#[derive(Clone, Copy)]
pub(crate) enum BasisRow {
    KeyCentre,
    Key,
    Query,
    Value,
    Result,
}

pub(crate) const BASIS_ROWS: usize = BasisRow::Result as usize + 1;

/// The fixed sign that the rotation gives element `i` of a head.
pub(crate) fn rotation_sign(i: usize) -> f32 {
    let i = i as u32;
    if (i.wrapping_mul(i + 1).wrapping_mul(0x9e37_79b1) >> 16) & 1 == 1 { -1.0 } else { 1.0 }
}

/// `H x` in place: normalised Walsh-Hadamard transforms of the greatest power of two that divides the head.
fn transform(x: &mut [f32]) {
    let block = 1usize << x.len().trailing_zeros();
    let mut half = 1;
    while half < block {
        for pair in x.chunks_exact_mut(2 * half) {
            let (a, b) = pair.split_at_mut(half);
            for (a, b) in a.iter_mut().zip(b) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
    let norm = norm(block);
    x.iter_mut().for_each(|x| *x *= norm);
}

/// `1 / sqrt(block)`
pub(crate) fn norm(block: usize) -> f32 {
    (1.0 / (block as f64).sqrt()) as f32
}

/// These factors, or the fixed signs of `width` channels, in heads of `d`.
fn or_signs(factors: Option<&[f32]>, width: usize, d: usize) -> Cow<'_, [f32]> {
    factors.map_or_else(|| (0..width).map(|i| rotation_sign(i % d)).collect(), Cow::Borrowed)
}

/// `H (x * factor)` of tokens of `heads` heads of `d` values, or the `inverse`, `H x * factor`; factors are those of all key
/// heads, or none but the fixed signs.
pub(crate) fn rotate(
    x: &[f32],
    [heads, d]: [usize; 2],
    factors: Option<&[f32]>,
    inverse: bool,
    y: &mut [f32],
) {
    let factors = or_signs(factors, d, d);
    let out = Out::new(y);
    parallel(x.len() / d, 1, (1 << 12) / d, |range| {
        for i in range {
            // SAFETY: pieces of `parallel` are disjoint heads.
            let y = unsafe { out.slice(i * d, d) };
            y.copy_from_slice(&x[i * d..(i + 1) * d]);
            let own = &factors[i % heads * (factors.len() / d) / heads * d..][..d];
            let scale = |y: &mut [f32]| y.iter_mut().zip(own).for_each(|(y, f)| *y *= f);
            if inverse {
                transform(y);
                scale(y);
            } else {
                scale(y);
                transform(y);
            }
        }
    });
}

/// What is taken off rows of a packed cache and what they are multiplied by before they are transformed, one after another:
/// nothing, or a number of each channel of all heads.
#[derive(Clone, Copy, Default)]
pub(crate) struct Basis<'a> {
    pub(crate) centres: Option<&'a [f32]>,
    /// None are the fixed signs.
    pub(crate) factors: Option<&'a [f32]>,
}

/// Codes of `H ((rows[i, :] - centre) * factor)` into logical row `p + s` of a cache, `(p, s) = places[i]`; rows outside are
/// dropped. No two places are alike.
pub(crate) fn kv_pack(
    packing: Packing,
    cache: &mut [u32],
    rows: &[f32],
    places: &[Place],
    table: &[u32],
    basis: Basis<'_>,
    d: usize,
) {
    let width = rows.len() / places.len().max(1);
    let factors = or_signs(basis.factors, width, d);
    let sizes = packing.sizes(width / d, d);
    let capacity = cache.len() / sizes[0];
    // Words that are sure to lie side by side.
    let run = if packing.tile[0] == 1 { sizes[0] } else { 1 };
    let out = Out::new(bytemuck::cast_slice_mut(cache));
    parallel(places.len(), 1, (1 << 11) / width.max(1), |range| {
        let mut row = vec![0; sizes[0]];
        scratch(width, |x| {
            for i in range {
                let logical = places[i][0] as usize + places[i][1] as usize;
                let Some(at) = row_at(table, logical, capacity) else { continue };
                x.copy_from_slice(&rows[i * width..(i + 1) * width]);
                if let Some(centres) = basis.centres {
                    x.iter_mut().zip(centres).for_each(|(x, c)| *x -= c);
                }
                if !packing.affine {
                    x.iter_mut().zip(&*factors).for_each(|(x, f)| *x *= f);
                }
                packing.write_row(x, d, &mut row);
                for (i, words) in row.chunks(run).enumerate() {
                    // SAFETY: tokens have rows of their own, so words as well.
                    let to = unsafe { out.slice(packing.at(at, sizes, i * run), words.len()) };
                    to.copy_from_slice(bytemuck::cast_slice(words));
                }
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::super::pages::PAGE;
    use super::*;

    #[test]
    fn codes_survive_packing() {
        for bits in [2, 3, 4, 5, 8] {
            let packing = Packing::rotated(bits);
            let codes: [u32; BLOCK] = std::array::from_fn(|i| (i * 37 + 11) as u32 & packing.top());
            let mut words = vec![0; bits as usize];
            packing.pack(&codes, &mut words);
            let mut back = [0; BLOCK];
            packing.unpack(&words, &mut back);
            assert_eq!(codes, back, "{bits} bits");
        }
    }

    #[test]
    fn rotation_undoes_itself_and_keeps_lengths() {
        for d in [7, 32, 64, 80, 96, 128, 256] {
            let x: Vec<f32> = (0..d).map(|i| ((i * i + 3) % 17) as f32 - 8.0).collect();
            let (mut y, mut z) = (vec![0.0; d], vec![0.0; d]);
            rotate(&x, [1, d], None, false, &mut y);
            rotate(&y, [1, d], None, true, &mut z);
            let length = |x: &[f32]| x.iter().map(|x| x * x).sum::<f32>();
            assert!((length(&x) / length(&y) - 1.0).abs() < 1e-5);
            assert!(x.iter().zip(&z).all(|(x, z)| (x - z).abs() < 1e-5), "{d}");
        }
    }

    #[test]
    fn a_value_is_within_half_a_step_of_its_code() {
        for bits in [4, 5, 8] {
            let packing = Packing::rotated(bits);
            let x: Vec<f32> = (0..64).map(|i| (i as f32 * 0.37).sin()).collect();
            let mut codes = [0; 64];
            let (scale, _) = packing.quantize(&x, &mut codes);
            for (x, u) in x.iter().zip(codes) {
                assert!((scale * (u as f32 - packing.zero()) - x).abs() <= scale * 0.501, "{bits} {x} {u}");
            }
        }
        assert_eq!(Packing::rotated(4).quantize(&[0.0; 64], &mut [0; 64]).0, 0.0);
    }

    /// A few channels of the keys are 40 to 80 times the others, always alike: taken off, they cost nothing;
    /// rotated alone, they cost every channel some of its precision.
    #[test]
    fn centres_take_off_what_stands_out() {
        let (n, d) = (64, 128);
        let noise = |i: usize| {
            let unit = |i: usize| ((i as u32).wrapping_mul(0x9e37_79b1) >> 8) as f32 / (1 << 24) as f32 - 0.5;
            (0..12).map(|k| unit(i * 12 + k + 1)).sum::<f32>()
        };
        let offset =
            |c: usize| [(3, 40.0), (70, -80.0), (101, 60.0)].iter().find(|o| o.0 == c).map_or(0.0, |o| o.1);
        let query: Vec<f32> = (0..d).map(|c| noise(1_000_000 + c)).collect();
        let places: Vec<Place> = (0..n as u32).map(|i| [i, 0]).collect();
        // The error of scores, less what is the same for all keys, which no softmax sees.
        let error = |outliers: f32, centred: bool| {
            let packing = Packing::rotated(4);
            let centre: Vec<f32> = (0..d).map(|c| outliers * offset(c)).collect();
            let keys: Vec<f32> = (0..n * d).map(|i| noise(i) + centre[i % d]).collect();
            let mut cache = vec![0; PAGE * packing.row_words(1, d)];
            let basis = Basis { centres: centred.then_some(&centre[..]), factors: None };
            kv_pack(packing, &mut cache, &keys, &places, &[0], basis, d);
            let mut turned = vec![0.0; d];
            rotate(&query, [1, d], None, false, &mut turned);
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            let errors: Vec<f64> = (0..n)
                .map(|j| {
                    let mut key = vec![0.0; d];
                    packing.read_head(&cache[j * packing.row_words(1, d)..], 1, 0, d, &mut key);
                    dot(&turned, &key) - dot(&query, &keys[j * d..][..d])
                })
                .collect();
            let mean = errors.iter().sum::<f64>() / n as f64;
            (errors.iter().map(|e| (e - mean) * (e - mean)).sum::<f64>() / n as f64).sqrt()
        };
        let (plain, centred, rotated) = (error(0.0, false), error(1.0, true), error(1.0, false));
        assert!(centred < 1.1 * plain, "{centred} of {plain}");
        assert!(rotated > 3.0 * plain, "{rotated} of {plain}");
    }

    #[test]
    fn tiles_hold_what_rows_hold() {
        let (heads, d, rows) = (3, 64, 2 * PAGE);
        let values: Vec<f32> = (0..rows * heads * d).map(|i| ((i * 37 % 101) as f32 - 50.0) / 9.0).collect();
        let places: Vec<Place> = (0..rows as u32).map(|row| [row, 0]).collect();
        for (bits, is_value) in [(4, false), (8, false), (3, true), (8, true)] {
            let plain = Packing::rotated(bits);
            let sizes = plain.sizes(heads, d);
            let caches = [plain, plain.tiled(is_value)].map(|packing| {
                let mut cache = vec![0; rows * sizes[0]];
                kv_pack(packing, &mut cache, &values, &places, &[1, 0], Basis::default(), d);
                (packing, cache)
            });
            let mut here = Vec::new();
            let mut read = |(packing, cache): &(Packing, Vec<u32>)| -> Vec<u32> {
                (0..rows).flat_map(|row| packing.row(cache, row, sizes, &mut here).to_vec()).collect()
            };
            assert_eq!(read(&caches[0]), read(&caches[1]), "{bits} bits");
            assert_ne!(caches[0].1, caches[1].1);
        }
    }

    #[test]
    fn rows_are_as_long_as_promised() {
        // Bits of a value, all included, at heads of 128.
        let bits = |bits| 32.0 * Packing::rotated(bits).row_words(8, 128) as f64 / 1024.0;
        assert_eq!([8, 4, 3].map(bits), [8.25, 4.25, 3.25]);
        assert_eq!(Packing::rotated(4).row_words(3, 64), 3 * 8 + 2);
        assert_eq!(Packing::affine(8, 64).row_words(2, 128), 2 * 32 + 8);
    }
}
