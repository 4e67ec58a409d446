//! Every kernel at every level of this processor against plain `f64` loops, on awkward sizes.

use super::attention::{Shape, attention_at};
use super::floats::{Floats, FloatsMut};
use super::math::{Binary, Gate, argmax, binary, gate_at, rms_norm_at, softmax_at};
use super::matmul::{Weight, embedding, matmul_at};
use super::pages::PAGE;
use super::rope::{kv_write, rope};
use super::simd::Level;
use half::{bf16, f16};

/// A small generator of uneven values, so that no two rows or groups look alike.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    /// In [-1, 1).
    fn value(&mut self) -> f32 {
        self.bits() as f32 / 2f32.powi(31) - 1.0
    }

    fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|i| self.value() * (1.0 + (i % 7) as f32)).collect()
    }
}

/// Values in one of the stored types.
enum Stored {
    F32(Vec<f32>),
    F16(Vec<u16>),
    BF16(Vec<u16>),
}

impl Stored {
    fn all(values: &[f32]) -> [Self; 3] {
        [
            Self::F32(values.to_vec()),
            Self::F16(values.iter().map(|&v| f16::from_f32(v).to_bits()).collect()),
            Self::BF16(values.iter().map(|&v| bf16::from_f32(v).to_bits()).collect()),
        ]
    }

    fn floats(&self) -> Floats<'_> {
        match self {
            Self::F32(v) => Floats::F32(v),
            Self::F16(v) => Floats::F16(v),
            Self::BF16(v) => Floats::BF16(v),
        }
    }

    fn floats_mut(&mut self) -> FloatsMut<'_> {
        match self {
            Self::F32(v) => FloatsMut::F32(v),
            Self::F16(v) => FloatsMut::F16(v),
            Self::BF16(v) => FloatsMut::BF16(v),
        }
    }
}

/// The largest difference, relative to the root mean square of what is expected.
#[track_caller]
fn close(got: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), expected.len());
    let rms = (expected.iter().map(|v| v * v).sum::<f64>() / expected.len() as f64).sqrt();
    for (i, (&g, &e)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(g) - e).abs() / rms.max(1e-30);
        assert!(error <= tolerance, "{what}: [{i}] is {g}, expected {e}, off by {error:e} of rms {rms}");
    }
}

fn product(x: &[f32], w: &[f64], bias: Option<Floats<'_>>, m: usize, n: usize, k: usize) -> Vec<f64> {
    let mut y = Vec::new();
    for i in 0..m {
        for j in 0..n {
            let dot: f64 = (0..k).map(|c| f64::from(x[i * k + c]) * w[j * k + c]).sum();
            y.push(dot + bias.map_or(0.0, |b| f64::from(b.get(j))));
        }
    }
    y
}

fn check_matmul(w: &Weight<'_>, plain: &[f64], n: usize, k: usize, what: &str) {
    let mut random = Random(7);
    let values = random.values(n);
    let biases = Stored::all(&values);
    for (i, m) in [1, 2, 3, 4, 5, 6, 7, 13, 65].into_iter().enumerate() {
        let x = random.values(m * k);
        let bias = (i % 2 == 0).then(|| biases[i % 3].floats());
        let expected = product(&x, plain, bias, m, n, k);
        for level in Level::available() {
            let mut y = vec![f32::NAN; m * n];
            matmul_at(level, &x, w, bias, m, n, k, &mut y);
            close(&y, &expected, 2e-5, &format!("{what} {} m={m} n={n} k={k}", level.name()));
        }
    }
}

#[test]
fn dense_products() {
    for (n, k) in [(1, 1), (3, 5), (7, 33), (70, 96), (130, 100), (9, 1024), (5, 2100)] {
        let values = Random((n * k) as u64).values(n * k);
        for w in Stored::all(&values) {
            let w = w.floats();
            let plain: Vec<f64> = (0..n * k).map(|i| f64::from(w.get(i))).collect();
            check_matmul(&Weight::Dense(w), &plain, n, k, &format!("{w:.0?}")[..4]);
        }
    }
}

#[test]
fn affine_products_and_embeddings() {
    for bits in [2, 3, 4, 5, 6, 8] {
        for (i, (group, k)) in [(32, 32), (32, 96), (64, 64), (64, 320), (128, 128), (128, 1152), (64, 2112)]
            .into_iter()
            .enumerate()
        {
            let n = [1, 3, 6, 67, 130][i % 5];
            let mut random = Random((bits * k + group) as u64);
            let words: Vec<u32> = (0..n * k * bits / 32).map(|_| random.bits()).collect();
            let scales = Stored::all(&random.values(n * k / group));
            let biases = Stored::all(&random.values(n * k / group));
            let (scales, biases) = (scales[i % 3].floats(), biases[i % 3].floats());
            let mut plain = Vec::new();
            for at in 0..n * k {
                // Rows are whole words, so the matrix is one bit stream.
                let code = (0..bits).map(|b| at * bits + b).map(|bit| words[bit / 32] >> (bit % 32) & 1);
                let code: u32 = code.enumerate().map(|(b, bit)| bit << b).sum();
                let (scale, bias) = (scales.get(at / group), biases.get(at / group));
                plain.push(f64::from(scale) * f64::from(code) + f64::from(bias));
            }
            let w = Weight::Affine { bits: bits as u32, group, words: &words, scales, biases };
            check_matmul(&w, &plain, n, k, &format!("{bits} bits, group {group}"));

            let ids = [n as u32 - 1, 0, n as u32, u32::MAX];
            let mut y = vec![f32::NAN; ids.len() * k];
            embedding(&ids, &w, n, k, &mut y);
            let mut rows = [&plain[(n - 1) * k..], &plain[..k]].concat();
            rows.resize(4 * k, 0.0);
            close(&y, &rows, 1e-6, "embedding");
        }
    }
}

#[test]
fn a_dense_embedding() {
    let values = Random(3).values(5 * 7);
    for w in Stored::all(&values) {
        let mut y = [f32::NAN; 14];
        embedding(&[4, 5], &Weight::Dense(w.floats()), 5, 7, &mut y);
        for i in 0..7 {
            assert_eq!((y[i], y[7 + i]), (w.floats().get(28 + i), 0.0));
        }
    }
}

#[test]
fn sixteen_bit_floats_widen_exactly() {
    for bits in 0..=u16::MAX {
        let (wide, expected) = (super::floats::widen_f16(bits), f16::from_bits(bits).to_f32());
        assert!(wide == expected || wide.is_nan() && expected.is_nan(), "{bits:#06x}");
    }
    let mut out = [0.0; 2];
    Floats::F16(&[0x3c00, 0xc000]).widen_into(&mut out);
    assert_eq!(out, [1.0, -2.0]);
    Floats::BF16(&[0x3f80, 0xc000]).widen_into(&mut out);
    assert_eq!(out, [1.0, -2.0]);
}

#[test]
fn norms_and_softmax() {
    for width in [1, 5, 16, 100, 1031] {
        let mut random = Random(width as u64);
        let (x, w) = (random.values(3 * width), Stored::all(&random.values(width)));
        for (level, w) in Level::available().flat_map(|level| w.iter().map(move |w| (level, w.floats()))) {
            let (mut norm, mut soft) = (Vec::new(), Vec::new());
            for row in x.chunks(width) {
                let mean = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / width as f64;
                let scale = 1.0 / (mean + f64::from(1e-6f32)).sqrt();
                norm.extend((0..width).map(|i| f64::from(row[i]) * scale * f64::from(w.get(i))));
                let max = row.iter().copied().fold(f32::MIN, f32::max);
                let e: Vec<f64> = row.iter().map(|&v| f64::from(v - max).exp()).collect();
                soft.extend(e.iter().map(|v| v / e.iter().sum::<f64>()));
            }
            let mut y = vec![f32::NAN; x.len()];
            rms_norm_at(level, &x, w, 1e-6, width, &mut y);
            close(&y, &norm, 1e-5, "rms_norm");
            softmax_at(level, &x, width, &mut y);
            close(&y, &soft, 1e-5, "softmax");
        }
    }
}

#[test]
fn softmax_of_masked_values_is_zero_there() {
    for level in Level::available() {
        let mut y = [0.0; 3];
        softmax_at(level, &[1.0, f32::NEG_INFINITY, 1.0], 3, &mut y);
        assert_eq!(y, [0.5, 0.0, 0.5]);
    }
}

#[test]
fn gates() {
    let erf = |x: f64| {
        // The integral by Simpson's rule.
        let n = 2000;
        let f = |i: usize| (-(x * i as f64 / f64::from(n)).powi(2)).exp();
        let sum: f64 = (0..=n as usize)
            .map(|i| f(i) * if i == 0 || i == n as usize { 1.0 } else { [2.0, 4.0][i % 2] })
            .sum();
        sum * x / f64::from(n) / 3.0 * std::f64::consts::FRAC_2_SQRT_PI
    };
    let g: Vec<f32> = (-70..=70).map(|i| i as f32 / 10.0).chain([-200.0, 200.0, 0.0]).collect();
    let u = Random(5).values(g.len());
    for level in Level::available() {
        for kind in [Gate::Silu, Gate::GeluTanh, Gate::Gelu] {
            let expected: Vec<f64> = g
                .iter()
                .zip(&u)
                .map(|(&g, &u)| {
                    let g = f64::from(g);
                    let act = match kind {
                        Gate::Silu => g / (1.0 + (-g).exp()),
                        Gate::GeluTanh => {
                            0.5 * g * (1.0 + (0.797_884_560_8 * (g + 0.044_715 * g.powi(3))).tanh())
                        }
                        Gate::Gelu => 0.5 * g * (1.0 + erf((g / 2f64.sqrt()).clamp(-6.0, 6.0))),
                    };
                    act * f64::from(u)
                })
                .collect();
            let mut y = vec![f32::NAN; g.len()];
            gate_at(level, kind, &g, &u, &mut y);
            for i in 0..y.len() {
                let (got, expected) = (f64::from(y[i]), expected[i]);
                assert!(
                    (got - expected).abs() <= 2e-6 * (1.0 + expected.abs()),
                    "{kind:?} {}: {got} {expected}",
                    g[i]
                );
            }
            gate_at(level, kind, &[f32::NAN], &[1.0], &mut y[..1]);
            assert!(y[0].is_nan(), "{kind:?} hides a NaN");
        }
    }
}

#[test]
fn elementwise_and_argmax() {
    let (a, b) = (Random(1).values(40_003), Random(2).values(40_003));
    let mut y = vec![f32::NAN; a.len()];
    type Function = fn(f32, f32) -> f32;
    let cases: [(Binary, Function); 6] = [
        (Binary::Add, |a, b| a + b),
        (Binary::Sub, |a, b| a - b),
        (Binary::Mul, |a, b| a * b),
        (Binary::Div, |a, b| a / b),
        (Binary::Max, f32::max),
        (Binary::Min, f32::min),
    ];
    for (kind, f) in cases {
        binary(kind, &a, &b, &mut y);
        assert!(y.iter().zip(a.iter().zip(&b)).all(|(&y, (&a, &b))| y == f(a, b)), "{kind:?}");
    }
    let mut row = a;
    row[70] = 50.0;
    row[33_333] = 50.0;
    assert_eq!(argmax(&row), 70);
    row[39_999] = 51.0;
    assert_eq!(argmax(&row), 39_999);
    assert_eq!(argmax(&[f32::NAN, 1.0, 2.0]), 2);
    assert_eq!(argmax(&[f32::NEG_INFINITY]), 0);
}

#[test]
fn rotations() {
    let (heads, dim) = (3, 12);
    let places = [[0, 0], [5, 3], [999_983, 0]];
    let inv_freq: Vec<f32> = (0..4).map(|i| 10_000f32.powf(-f32::from(i as u8) / 4.0)).collect();
    let x = Random(9).values(places.len() * heads * dim);
    for interleaved in [false, true] {
        let mut y = vec![f32::NAN; x.len()];
        rope(&x, &places, &inv_freq, 1.5, interleaved, heads, dim, &mut y);
        let mut expected: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
        for (i, row) in expected.chunks_mut(dim).enumerate() {
            for (j, freq) in inv_freq.iter().enumerate() {
                let (sin, cos) = f64::from(places[i / heads][0] as f32 * freq).sin_cos();
                let (p, q) = if interleaved { (2 * j, 2 * j + 1) } else { (j, j + 4) };
                let (a, b) = (row[p], row[q]);
                (row[p], row[q]) = (1.5 * (a * cos - b * sin), 1.5 * (b * cos + a * sin));
            }
        }
        close(&y, &expected, 1e-6, "rope");
    }
}

#[test]
fn cache_writes_round_to_nearest_even() {
    let values =
        [1.0 + 2f32.powi(-11), 1.0 + 3.0 * 2f32.powi(-11), 1.0 + 2f32.powi(-8), 1.0 + 3.0 * 2f32.powi(-8)];
    for mut cache in Stored::all(&[0.0; 2 * PAGE * 4]) {
        // The second sequence has the first page; one place is past the table, one page past the cache.
        let places = [[2, 0], [0, 128], [1, 128], [1, 384], [0, 256]];
        kv_write(cache.floats_mut(), &values.repeat(5), &places, &[1, 0, 2], 4);
        let expected = match cache {
            Stored::F32(_) => values,
            Stored::F16(_) => [1.0, 1.0 + 2f32.powi(-9), values[2], values[3]],
            Stored::BF16(_) => [1.0, 1.0, 1.0, 1.0 + 2f32.powi(-6)],
        };
        for (i, e) in expected.into_iter().enumerate() {
            let got = [0, 1, 2, PAGE, PAGE + 2].map(|row| cache.floats().get(4 * row + i));
            assert_eq!(got, [e, e, 0.0, 0.0, e]);
        }
    }
}

#[test]
fn attention_over_every_cache() {
    for (heads, kv_heads, dim, t, start, window) in [
        (4, 2, 32, 1, 0, None),
        (4, 2, 16, 1, 200, None),
        (6, 2, 20, 1, 131, Some(70)),
        (2, 1, 80, 37, 0, None),
        (8, 1, 24, 40, 100, Some(33)),
        (3, 3, 64, 9, 63, None),
        (32, 1, 16, 3, 64, Some(1)),
    ] {
        let pages = usize::div_ceil(start + t, PAGE);
        let capacity = (pages + 1) * PAGE;
        // Last page first.
        let table: Vec<u32> = (1..=pages as u32).rev().collect();
        let mut random = Random((heads * dim + t) as u64);
        let q = random.values(t * heads * dim);
        let places: Vec<_> = (start..start + t).map(|p| [p as u32, 0]).collect();
        let (ks, vs) = (random.values(capacity * kv_heads * dim), random.values(capacity * kv_heads * dim));
        for (k, v) in Stored::all(&ks).iter().zip(&Stored::all(&vs)) {
            let (k, v) = (k.floats(), v.floats());
            let mut expected = Vec::new();
            for (i, h) in (0..t).flat_map(|i| (0..heads).map(move |h| (i, h))) {
                let seen = (window.map_or(0, |w| (start + i + 1).saturating_sub(w)))..start + i + 1;
                let row = |j: usize| {
                    let at = table[j / PAGE] as usize * PAGE + j % PAGE;
                    (at * kv_heads + h / (heads / kv_heads)) * dim
                };
                let score = |j: usize| -> f64 {
                    (0..dim)
                        .map(|d| f64::from(q[(i * heads + h) * dim + d]) * f64::from(k.get(row(j) + d)))
                        .sum()
                };
                let scores: Vec<f64> = seen.clone().map(|j| score(j) * 0.07).collect();
                let max = scores.iter().copied().fold(f64::MIN, f64::max);
                let e: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
                let sum: f64 = e.iter().sum();
                expected.extend((0..dim).map(|d| {
                    let sum_v: f64 =
                        seen.clone().zip(&e).map(|(j, e)| e * f64::from(v.get(row(j) + d))).sum();
                    sum_v / sum
                }));
            }
            for level in Level::available() {
                let mut y = vec![f32::NAN; q.len()];
                let shape = Shape { heads, kv_heads, dim, scale: 0.07, window };
                attention_at(level, &q, k, v, (&places, &table), shape, &mut y);
                close(
                    &y,
                    &expected,
                    2e-5,
                    &format!("{} {heads}/{kv_heads}x{dim} t={t} {window:?}", level.name()),
                );
            }
        }
    }
}
