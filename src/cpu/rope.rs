//! Rotary position embedding, and writing rows into a cache.

use super::floats::FloatsMut;
use super::pages::{Place, row_at};
use super::threads::{Out, parallel, scratch};

/// Rotates the first `2 * inv_freq.len()` of each head's `dim` values by the angle `position * inv_freq`
/// and copies the others. Partners are `(i, i + half)`, or `(2i, 2i + 1)` if `interleaved`; `scale`
/// multiplies cosine and sine. `x` and `y` are `[t, heads, dim]`.
#[allow(clippy::too_many_arguments, reason = "the formula's operands and sizes")]
pub(crate) fn rope(
    x: &[f32],
    places: &[Place],
    inv_freq: &[f32],
    scale: f32,
    interleaved: bool,
    heads: usize,
    dim: usize,
    y: &mut [f32],
) {
    debug_assert_eq!((x.len(), y.len()), (places.len() * heads * dim, x.len()));
    let (half, row) = (inv_freq.len(), heads * dim);
    debug_assert!(2 * half <= dim);
    let out = Out::new(y);
    parallel(places.len(), 1, (1 << 13) / row.max(1), |range| {
        scratch(2 * half, |table| {
            let (cos, sin) = table.split_at_mut(half);
            for i in range {
                for ((cos, sin), freq) in cos.iter_mut().zip(&mut *sin).zip(inv_freq) {
                    // The product in f32, as models were trained; its sine in f64, as angles grow large.
                    let (s, c) = f64::from(places[i][0] as f32 * freq).sin_cos();
                    (*cos, *sin) = (c as f32 * scale, s as f32 * scale);
                }
                // SAFETY: pieces of `parallel` are disjoint rows.
                let y = unsafe { out.slice(i * row, row) };
                let x = &x[i * row..(i + 1) * row];
                for (x, y) in x.chunks_exact(dim.max(1)).zip(y.chunks_exact_mut(dim.max(1))) {
                    rotate(x, y, cos, sin, interleaved);
                }
            }
        });
    });
}

fn rotate(x: &[f32], y: &mut [f32], cos: &[f32], sin: &[f32], interleaved: bool) {
    let half = cos.len();
    let (y, rest) = y.split_at_mut(2 * half);
    rest.copy_from_slice(&x[2 * half..]);
    if interleaved {
        for (((x, y), c), s) in x.chunks_exact(2).zip(y.chunks_exact_mut(2)).zip(cos).zip(sin) {
            (y[0], y[1]) = (x[0] * c - x[1] * s, x[1] * c + x[0] * s);
        }
    } else {
        let (a, b) = (&x[..half], &x[half..2 * half]);
        let (first, second) = y.split_at_mut(half);
        for i in 0..half {
            first[i] = a[i] * cos[i] - b[i] * sin[i];
            second[i] = b[i] * cos[i] + a[i] * sin[i];
        }
    }
}

/// Logical row `p + s` of the cache becomes `rows[i, :]`, `(p, s) = places[i]`, rounded to the cache's type; rows outside
/// are dropped.
pub(crate) fn kv_write(
    mut cache: FloatsMut<'_>,
    rows: &[f32],
    places: &[Place],
    table: &[u32],
    width: usize,
) {
    debug_assert_eq!(rows.len(), places.len() * width);
    let capacity = cache.len() / width.max(1);
    for (row, &[position, start]) in rows.chunks_exact(width.max(1)).zip(places) {
        if let Some(at) = row_at(table, position as usize + start as usize, capacity) {
            cache.write(at * width, row);
        }
    }
}
