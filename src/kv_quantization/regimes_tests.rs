//! What packing does to heads that are made up, each harder in its own way: scores, attention and a needle, by our
//! kinds and by other engines' schemes. `UNIMLX_REGIMES=1 cargo test --release --lib made_up -- --nocapture` prints all.

use super::baseline::Baseline;
use super::basis::{Sample, Turning};
use crate::array::{Device, MLXArray};
use crate::cpu::{Basis, BasisRow, PAGE, Packing, Place, kv_pack, rotate};
use crate::dtype::Dtype;

const D: usize = 128;
/// Query heads over one key head.
const HEADS: usize = 4;
const KEYS: usize = 512;
const QUERIES: usize = 16;

/// What is odd about the heads.
#[derive(Clone, Copy, Debug, Default)]
struct Regime {
    name: &'static str,
    /// So many pairs of key channels have a constant this large before they turn, from this pair on, this far apart.
    offsets: (usize, f64),
    pairs: (usize, usize),
    /// Channels of keys and of values differ by factors of this spread, in powers of e.
    channels: f64,
    /// The same of tokens.
    tokens: f64,
    /// The first key and value are this many times as long.
    sink: f64,
}

fn regimes() -> Vec<Regime> {
    let plain = Regime { name: "all alike", sink: 1.0, pairs: (0, 1), ..Regime::default() };
    vec![
        plain,
        // The slowest pairs, which hardly turn, those in the middle, and some anywhere.
        Regime { name: "5 channels of 5 to 10", offsets: (5, 7.0), pairs: (59, 1), ..plain },
        Regime { name: "3 channels of 40 to 80, slow", offsets: (3, 60.0), pairs: (61, 1), ..plain },
        Regime { name: "3 channels of 40 to 80, middle", offsets: (3, 60.0), pairs: (30, 2), ..plain },
        Regime { name: "3 channels of 40 to 80, anywhere", offsets: (3, 60.0), pairs: (5, 23), ..plain },
        Regime { name: "channels of different size", channels: 0.5, ..plain },
        Regime { name: "tokens of different size", tokens: 0.3, ..plain },
        Regime { name: "a first token 10 times as long", sink: 10.0, ..plain },
    ]
}

/// Normal numbers, the same in each run.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f64 {
        let mut unit = || {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 40) as f64 / (1u64 << 24) as f64
        };
        (0..12).map(|_| unit()).sum::<f64>() - 6.0
    }
}

fn frequency(pair: usize) -> f64 {
    1e6f64.powf(-(pair as f64) / (D / 2) as f64)
}

/// A head at its position.
fn turned(head: &[f64], position: usize) -> Vec<f32> {
    let half = D / 2;
    let mut out = vec![0f32; D];
    for i in 0..half {
        let (sin, cos) = (position as f64 * frequency(i)).sin_cos();
        out[i] = (head[i] * cos - head[i + half] * sin) as f32;
        out[i + half] = (head[i + half] * cos + head[i] * sin) as f32;
    }
    out
}

/// Queries, keys and values of tokens from a position on.
struct Heads {
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Regime {
    fn heads(&self, seed: u64, tokens: usize, first: usize) -> Heads {
        // What belongs to the model is the same for every text.
        let mut of_model = Noise(1);
        let mut spread: Vec<f64> = (0..2 * D).map(|_| (self.channels * of_model.next()).exp()).collect();
        for i in 0..D / 2 {
            spread[i + D / 2] = spread[i]; // pairs turn as one
        }
        let mut offset = vec![0.0; D];
        for i in 0..self.offsets.0 {
            offset[self.pairs.0 + i * self.pairs.1] = self.offsets.1 * (0.7 + 0.3 * i as f64);
        }
        let mut noise = Noise(seed);
        let mut heads = Heads { queries: Vec::new(), keys: Vec::new(), values: Vec::new() };
        for token in 0..tokens {
            let sink = if token + first == 0 { self.sink } else { 1.0 };
            let size = (self.tokens * noise.next()).exp() * sink;
            let key: Vec<f64> = (0..D).map(|i| (noise.next() * spread[i] + offset[i]) * size).collect();
            heads.keys.extend(turned(&key, token + first));
            heads.values.extend((0..D).map(|i| (noise.next() * spread[D + i] * size) as f32));
            for _ in 0..HEADS {
                let query: Vec<f64> = (0..D).map(|_| noise.next()).collect();
                heads.queries.extend(turned(&query, token + first));
            }
        }
        heads
    }
}

/// A scheme that keys and values go through.
#[derive(Clone, Copy)]
enum Scheme {
    /// Bits of keys and of values, with and without a basis.
    Ours([u32; 2], bool),
    Mlx(u32),
    Other(Baseline),
}

/// Rows as they come back, in the basis that they had.
fn back(rows: &[f32], scheme: Scheme, value: bool, basis: &[f32]) -> Vec<f32> {
    let row = |row: BasisRow| &basis[row as usize * D..][..D];
    let (packing, of_rows) = match scheme {
        Scheme::Other(other) => {
            let bytes: &[u8] = bytemuck::cast_slice(rows);
            let x = MLXArray::from_bytes(bytes, &[rows.len() / D, D], Dtype::F32, Device::CPU).unwrap();
            return other.round(&x, D).data();
        }
        Scheme::Mlx(bits) => (Packing::affine(bits, 64), Basis::default()),
        Scheme::Ours(bits, based) => {
            let basis = Basis {
                centres: (based && !value).then(|| row(BasisRow::KeyCentre)),
                factors: based.then(|| row(if value { BasisRow::Value } else { BasisRow::Key })),
            };
            (Packing::rotated(bits[usize::from(value)]), basis)
        }
    };
    let n = rows.len() / D;
    let (places, pages): (Vec<Place>, Vec<u32>) =
        ((0..n as u32).map(|i| [i, 0]).collect(), (0..n.div_ceil(PAGE) as u32).collect());
    let words = packing.row_words(1, D);
    let mut cache = vec![0; pages.len() * PAGE * words];
    kv_pack(packing, &mut cache, rows, &places, &pages, of_rows, D);
    let mut out = vec![0f32; rows.len()];
    for (i, out) in out.chunks_exact_mut(D).enumerate() {
        packing.read_head(&cache[i * words..], 1, 0, D, out);
        if !packing.affine {
            let coded = out.to_vec();
            let inverse = of_rows.factors.map(|factors| factors.iter().map(|f| 1.0 / f).collect::<Vec<_>>());
            rotate(&coded, [1, D], inverse.as_deref(), true, out);
        }
        if let Some(centres) = of_rows.centres {
            out.iter_mut().zip(centres).for_each(|(x, c)| *x += c);
        }
    }
    out
}

/// What a scheme costs.
#[derive(Debug, Default)]
struct Cost {
    /// Root mean square error of scores, less what is the same for all keys, where they spread by 2.5.
    scores: f64,
    /// Divergence of attention.
    divergence: f64,
    /// Relative error of what attention makes of the values.
    output: f64,
    /// Queries that find the key that is meant for them.
    found: usize,
}

fn cost(regime: &Regime, scheme: Scheme) -> Cost {
    let sample = regime.heads(2, 127, 1);
    let inv_freq: Vec<f32> = (0..D / 2).map(|i| frequency(i) as f32).collect();
    let basis = Sample {
        queries: &sample.queries,
        keys: &sample.keys,
        values: &sample.values,
        weights: &[1.0; D],
        first: 1,
    }
    .basis(1, &Turning { head_dim: D, inv_freq: &inv_freq, positions: 4096 });
    let mut text = regime.heads(3, KEYS, 0);
    let queries = regime.heads(4, QUERIES, KEYS).queries;
    let queries: Vec<&[f32]> = queries.chunks_exact(D).collect();
    // Each query has one key that it is for.
    let needle = |q: usize| (q * 37 + 5) % KEYS;
    let exact =
        |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let centred = |mut scores: Vec<f64>| {
        let mean = scores.iter().sum::<f64>() / scores.len() as f64;
        scores.iter_mut().for_each(|s| *s -= mean);
        scores
    };
    let square = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>();
    let plain = text.keys.clone();
    for (q, query) in queries.iter().enumerate() {
        // Four times as far as scores spread.
        let step = (4.0 / exact(query, query).sqrt()) as f32;
        text.keys[needle(q) * D..][..D].iter_mut().zip(*query).for_each(|(k, x)| *k += step * x);
    }
    let (keys, values) = (back(&text.keys, scheme, false, &basis), back(&text.values, scheme, true, &basis));
    let scores =
        |query: &[f32], keys: &[f32]| centred(keys.chunks_exact(D).map(|key| exact(query, key)).collect());
    let softmax = |scores: &[f64]| {
        let most = scores.iter().copied().fold(f64::MIN, f64::max);
        let all: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
        let sum = all.iter().sum::<f64>();
        all.iter().map(|p| p / sum).collect::<Vec<_>>()
    };
    let mix = |p: &[f64], values: &[f32]| {
        let mut y = vec![0f64; D];
        for (p, row) in p.iter().zip(values.chunks_exact(D)) {
            y.iter_mut().zip(row).for_each(|(y, v)| *y += p * f64::from(*v));
        }
        y
    };
    let mut cost = Cost::default();
    let n = queries.len() as f64;
    for query in &queries {
        let spread = (square(&scores(query, &plain)) / KEYS as f64).sqrt();
        let by = |keys: &[f32]| scores(query, keys).iter().map(|s| s * 2.5 / spread).collect::<Vec<_>>();
        let (right, got) = (by(&text.keys), by(&keys));
        let off: Vec<f64> = right.iter().zip(&got).map(|(a, b)| a - b).collect();
        cost.scores += square(&off) / KEYS as f64 / n;
        let (p, r) = (softmax(&right), softmax(&got));
        cost.divergence += p.iter().zip(&r).map(|(p, r)| p * (p / r.max(1e-300)).ln()).sum::<f64>() / n;
        let (y, z) = (mix(&p, &text.values), mix(&r, &values));
        let off: Vec<f64> = y.iter().zip(&z).map(|(a, b)| a - b).collect();
        cost.output += (square(&off) / square(&y)).sqrt() / n;
        let top = |s: &[f64]| (0..KEYS).max_by(|&a, &b| s[a].total_cmp(&s[b]));
        cost.found += usize::from(top(&right) == top(&got));
    }
    cost.scores = cost.scores.sqrt();
    cost
}

#[test]
#[expect(clippy::print_stdout, reason = "a table for people, when they ask for it")]
fn made_up_heads_cost_little_more_than_plain_ones() {
    let schemes = [
        ("int8", Scheme::Ours([8, 8], true)),
        ("int4", Scheme::Ours([4, 4], true)),
        ("k4v3", Scheme::Ours([4, 3], true)),
        ("k4v4-plain", Scheme::Ours([4, 4], false)),
        ("q8_0", Scheme::Other(Baseline::Q8_0)),
        ("q4_0", Scheme::Other(Baseline::Q4_0)),
        ("q4_0-rotated", Scheme::Other(Baseline::RotatedQ4_0)),
        ("mlx4", Scheme::Mlx(4)),
    ];
    let print = std::env::var("UNIMLX_REGIMES").is_ok_and(|v| v == "1");
    if print {
        println!("| heads | {} |", schemes.map(|(name, _)| name).join(" | "));
        println!("|---|{}", "---|".repeat(schemes.len()));
    }
    for regime in regimes() {
        let costs = schemes.map(|(_, scheme)| cost(&regime, scheme));
        if print {
            let cells = costs.each_ref().map(|c| {
                format!("{:.3} {:.1e} {:.1}% {}", c.scores, c.divergence, 100.0 * c.output, c.found)
            });
            println!("| {} | {} |", regime.name, cells.join(" | "));
        }
        let [int8, int4, k4v3, _, q8_0, q4_0, rotated, _] = costs;
        let name = regime.name;
        // Constants that turn at a middling speed are what a centre takes off least.
        let middle = regime.pairs.0 == 30;
        let most = if middle { [0.03, 0.5] } else { [0.017, 0.26] };
        assert!(int8.scores < most[0] && int4.scores < most[1], "{name}: {int8:?} {int4:?}");
        assert!(int8.output < 0.025 && int8.found >= QUERIES * HEADS - 2, "{name}: {int8:?}");
        assert!(k4v3.scores == int4.scores && k4v3.output > int4.output, "{name}: {k4v3:?} {int4:?}");
        if regime.offsets.1 > 50.0 {
            assert!(4.0 * int8.scores < q8_0.scores, "{name}: {int8:?} {q8_0:?}");
            assert!(
                2.0 * int4.scores < q4_0.scores.min(rotated.scores),
                "{name}: {int4:?} {q4_0:?} {rotated:?}"
            );
        }
    }
}
