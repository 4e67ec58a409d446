//! Where packed heads lie before they are rotated and coded: centred, and balanced channel by channel.
//!
//! A rotation spreads outliers over the whole head, after which the codes' error is the same in every direction.
//! So two things pay before it: to subtract what all keys have in common, and to give all channels the same weight.
//! Both are exact. Softmax does not see a constant taken off all keys; a pair of key channels that turns with
//! the position may be divided by any `w` if the queries' is multiplied by it, a channel of values if the result's
//! is. The sum of the errors of all scores is least at `w^2 = rms k / rms q`; and this `w` follows a model whose keys
//! are scaled against its queries, channel by channel, so that outliers of that kind cost nothing at all. Values
//! are weighed against the columns of the output projection alike.

use crate::cpu::{BASIS_ROWS, BasisRow, rotation_sign};
use std::f64::consts::PI;

/// Rotated queries and keys and values of some tokens in one layer, `[tokens, heads * head_dim]` each.
pub(crate) struct Sample<'a> {
    pub(crate) queries: &'a [f32],
    pub(crate) keys: &'a [f32],
    pub(crate) values: &'a [f32],
    /// How strongly the layer weighs each channel of its values: squares of the columns that multiply it, `[kv_heads *
    /// head_dim]`.
    pub(crate) weights: &'a [f32],
    /// The position of the first token.
    pub(crate) first: usize,
}

/// How heads turn.
pub(crate) struct Turning<'a> {
    pub(crate) head_dim: usize,
    /// Channel `i` turns with channel `i + inv_freq.len()`.
    pub(crate) inv_freq: &'a [f32],
    /// Positions over which a centre is to hold.
    pub(crate) positions: usize,
}

/// Channels weaker than this, as energy relative to their head's, count as that strong.
const FLOOR: f64 = 1e-4;

impl Sample<'_> {
    /// The basis that suits the sample, `[5, kv_heads * head_dim]`: centres, which are taken off keys, and factors of keys,
    /// of queries, of values and of results, which come out of it again. Factors have the rotation's signs.
    pub(crate) fn basis(&self, kv_heads: usize, turning: &Turning<'_>) -> Vec<f32> {
        let d = turning.head_dim;
        let width = kv_heads * d;
        let tokens = (self.keys.len() / width).max(1);
        let heads = self.queries.len() / tokens / d;
        let mut basis = vec![0f32; BASIS_ROWS * width];
        // Where a model overflows on the sample, channels stay as they are.
        let mut set = |row: BasisRow, at: usize, value: f64| {
            let (neutral, sign) = match row {
                BasisRow::KeyCentre => (0.0, 1.0),
                _ => (1.0, rotation_sign(at % d)),
            };
            let value = if value.is_finite() { value as f32 } else { neutral };
            basis[row as usize * width + at] = sign * value;
        };
        for h in 0..kv_heads {
            let (centre, keys) = key_moments(self, h, width, turning);
            let mut queries = vec![0f64; d];
            for row in self.queries.chunks_exact(heads * d) {
                for head in row.chunks_exact(d).skip(h * heads / kv_heads).take(heads / kv_heads) {
                    queries.iter_mut().zip(head).for_each(|(e, q)| *e += f64::from(*q).powi(2));
                }
            }
            pair_up(&mut queries, turning);
            let w = balance(&keys, &queries);
            for (i, (w, c)) in w.iter().zip(&centre).enumerate() {
                let at = h * d + i;
                set(BasisRow::KeyCentre, at, *c);
                set(BasisRow::Key, at, 1.0 / w);
                set(BasisRow::Query, at, *w);
            }

            // No centres: the mean value of a sample is not that of a text.
            let mut energy = vec![0f64; d];
            for row in self.values.chunks_exact(width) {
                energy.iter_mut().zip(&row[h * d..][..d]).for_each(|(e, v)| *e += f64::from(*v).powi(2));
            }
            let weights: Vec<f64> = self.weights[h * d..][..d].iter().map(|w| f64::from(*w)).collect();
            let w = balance(&energy, &weights);
            for (i, w) in w.iter().enumerate() {
                let at = h * d + i;
                set(BasisRow::Value, at, 1.0 / w);
                set(BasisRow::Result, at, *w);
            }
        }
        basis
    }
}

/// The mean key of a head over all positions, and the energy of each channel about it.
fn key_moments(sample: &Sample<'_>, h: usize, width: usize, turning: &Turning<'_>) -> (Vec<f64>, Vec<f64>) {
    let (d, half) = (turning.head_dim, turning.inv_freq.len());
    let tokens = (sample.keys.len() / width).max(1) as f64;
    let (mut mean, mut energy) = (vec![0f64; d], vec![0f64; d]);
    for (n, row) in sample.keys.chunks_exact(width).enumerate() {
        let key: Vec<f64> = row[h * d..][..d].iter().map(|k| f64::from(*k)).collect();
        for i in 0..d {
            energy[i] += key[i] * key[i] / tokens;
            if i < half {
                // As it was before it turned.
                let (sin, cos) = ((sample.first + n) as f64 * f64::from(turning.inv_freq[i])).sin_cos();
                mean[i] += (key[i] * cos + key[i + half] * sin) / tokens;
                mean[i + half] += (key[i + half] * cos - key[i] * sin) / tokens;
            } else if i >= 2 * half {
                mean[i] += key[i] / tokens;
            }
        }
    }
    for i in 0..half {
        let [cos, sin] = mean_turn(f64::from(turning.inv_freq[i]), turning.positions as f64);
        let (a, b) = (mean[i], mean[i + half]);
        (mean[i], mean[i + half]) = (a * cos - b * sin, b * cos + a * sin);
    }
    energy.iter_mut().zip(&mean).for_each(|(e, m)| *e -= m * m);
    pair_up(&mut energy, turning);
    (mean, energy)
}

/// The mean of `[cos, sin]` of `n * frequency` over `n < count`.
fn mean_turn(frequency: f64, count: f64) -> [f64; 2] {
    let half = (frequency / 2.0) % PI;
    let length = if half.abs() < 1e-12 { 1.0 } else { (count * half).sin() / (count * half.sin()) };
    let (sin, cos) = ((count - 1.0) * half).sin_cos();
    [length * cos, length * sin]
}

/// Channels that turn with each other share their energy.
fn pair_up(energy: &mut [f64], turning: &Turning<'_>) {
    let half = turning.inv_freq.len();
    for i in 0..half {
        let mean = (energy[i] + energy[i + half]) / 2.0;
        (energy[i], energy[i + half]) = (mean, mean);
    }
}

fn floored(energy: &[f64]) -> Vec<f64> {
    let mean = energy.iter().sum::<f64>() / energy.len() as f64;
    energy.iter().map(|e| if mean > 0.0 { e.max(FLOOR * mean) } else { 1.0 }).collect()
}

/// The factors `w`, of geometric mean 1, with which the sums of `x / w` and of `y w` err least, of these energies.
fn balance(x: &[f64], y: &[f64]) -> Vec<f64> {
    let mut w: Vec<f64> = floored(x).iter().zip(floored(y)).map(|(x, y)| (x / y).powf(0.25)).collect();
    let mean = w.iter().map(|w| w.ln()).sum::<f64>() / w.len() as f64;
    w.iter_mut().for_each(|w| *w /= mean.exp());
    w
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: usize = 8;
    const TOKENS: usize = 40;

    fn noise(n: usize, seed: u32) -> Vec<f32> {
        let unit =
            |i: usize| ((i as u32 + seed).wrapping_mul(0x9e37_79b1) >> 8) as f32 / (1 << 24) as f32 - 0.5;
        (0..n).map(|i| unit(3 * i) + unit(3 * i + 1) + unit(3 * i + 2)).collect()
    }

    /// Two query heads over one key head; channels of keys and values times these factors, their partners divided.
    fn basis(of_keys: [f32; D], of_values: [f32; D]) -> Vec<f32> {
        let by = |x: Vec<f32>, f: &[f32; D], power: i32| -> Vec<f32> {
            x.iter().enumerate().map(|(i, x)| x * f[i % D].powi(power)).collect()
        };
        let sample = Sample {
            queries: &by(noise(2 * TOKENS * D, 1), &of_keys, -1),
            keys: &by(noise(TOKENS * D, 5000), &of_keys, 1),
            values: &by(noise(TOKENS * D, 9000), &of_values, 1),
            weights: &by(vec![3.0; D], &of_values, -2),
            first: 1,
        };
        let turning = Turning { head_dim: D, inv_freq: &[1.0, 0.1, 0.01, 0.001], positions: 4096 };
        sample.basis(1, &turning)
    }

    #[test]
    fn what_stands_out_is_divided_away() {
        let one = [1.0; D];
        let plain = basis(one, one);
        let keys = [1.0, 12.0, 1.0, 1.0, 1.0, 12.0, 1.0, 1.0]; // a pair
        let values = [1.0, 1.0, 8.0, 1.0, 1.0, 1.0, 0.5, 1.0];
        let stressed = basis(keys, values);
        for (row, factors, power) in [(1, keys, -1), (2, keys, 1), (3, values, -1), (4, values, 1)] {
            let ratio = |i: usize| stressed[row * D + i] / plain[row * D + i] / factors[i].powi(power);
            // All alike, for only ratios within a head count.
            assert!((0..D).all(|i| (ratio(i) / ratio(0) - 1.0).abs() < 1e-4), "row {row}");
        }
    }

    #[test]
    fn a_basis_is_undone() {
        let basis = basis([1.0, 3.0, 0.2, 1.0, 1.0, 3.0, 0.2, 1.0], [9.0; D]);
        for i in 0..D {
            assert!((basis[D + i] * basis[2 * D + i] - 1.0).abs() < 1e-5);
            assert!((basis[3 * D + i] * basis[4 * D + i] - 1.0).abs() < 1e-5);
            assert!([1, 2, 3, 4].map(|row| basis[row * D + i] * rotation_sign(i)).iter().all(|f| *f > 0.0));
        }
    }

    #[test]
    fn a_centre_holds_for_all_positions() {
        // The same key everywhere, before it turned: slow pairs keep a mean, fast ones have none.
        let inv_freq = [1.0f32, 1e-6];
        let key = |n: usize| -> Vec<f32> {
            let (a, b): (Vec<f32>, Vec<f32>) = inv_freq
                .iter()
                .map(|f| (n as f32 * f).sin_cos())
                .map(|(sin, cos)| (5.0 * cos, 5.0 * sin))
                .unzip();
            [a, b].concat()
        };
        let keys: Vec<f32> = (1..30).flat_map(key).collect();
        let sample = Sample { queries: &keys, keys: &keys, values: &keys, weights: &[1.0; 4], first: 1 };
        let basis = sample.basis(1, &Turning { head_dim: 4, inv_freq: &inv_freq, positions: 4096 });
        assert!(basis[0].abs() < 0.01 && basis[2].abs() < 0.01, "{basis:?}");
        assert!((basis[1] - 5.0).abs() < 0.02 && basis[3].abs() < 0.02, "{basis:?}");
    }

    #[test]
    fn numbers_that_are_none_do_no_harm() {
        let bad = vec![f32::NAN; 2 * D];
        let sample = Sample { queries: &bad, keys: &bad, values: &bad, weights: &bad[..D], first: 0 };
        let turning = Turning { head_dim: D, inv_freq: &[1.0], positions: 10 };
        assert!(sample.basis(1, &turning).iter().all(|x| x.is_finite()));
    }
}
