//! Products of many activation rows: widen a panel of weights once, then run register tiles over it.
//!
//! The panel stays in the second-level cache while all activation rows pass; a tile's activations stay in
//! the first-level cache while the panel's rows pass.

use super::floats::{Element, F32};
use super::matmul::{Affine, Job, four, spare, widen_floats};
use super::simd::{Kernel, LANES, Simd};
use super::threads::{parallel, scratch};
use super::tile::{affine_widen, dots_upto6, packed, widen};
use std::ops::Range;

/// Columns of a panel: four rows of it and a tile of activations fit the first-level cache.
const PANEL_K: usize = 1024;
/// Rows of a panel.
const PANEL_N: usize = 64;

/// The product of `job` by panels; `x` is packed with this stride.
pub(super) fn panels<W: Rows>(job: Job<'_>, w: W, x: &[f32], stride: usize) {
    let panel_stride = PANEL_K.min(job.k.next_multiple_of(LANES)) + LANES;
    parallel(job.n, 4, PANEL_N, |rows| {
        scratch(PANEL_N * panel_stride + w.spare(job.k), |buffer| {
            let (panel, spare) = buffer.split_at_mut(PANEL_N * panel_stride);
            for start in rows.clone().step_by(PANEL_N) {
                let rows = start..rows.end.min(start + PANEL_N);
                job.level.run(Panel { job, w, x, stride, panel, panel_stride, spare, rows });
            }
        });
    });
}

/// Weights that can be widened row by row.
pub(super) trait Rows: Copy + Sync {
    /// Scratch that `widen` wants for rows of `k`.
    fn spare(&self, k: usize) -> usize;

    /// Columns of one row as `f32`, padded with zeros to whole vectors.
    ///
    /// # Safety
    /// As many values are writable at `out`.
    unsafe fn widen<S: Simd>(
        &self,
        s: S,
        row: usize,
        k: usize,
        cols: Range<usize>,
        spare: &mut [f32],
        out: *mut f32,
    );
}

pub(super) struct DenseRows<'a, E: Element>(pub(super) &'a [E::Raw]);

impl<E: Element> Clone for DenseRows<'_, E> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<E: Element> Copy for DenseRows<'_, E> {}

impl<E: Element> Rows for DenseRows<'_, E> {
    fn spare(&self, _: usize) -> usize {
        0
    }

    #[inline(always)]
    unsafe fn widen<S: Simd>(
        &self,
        s: S,
        row: usize,
        k: usize,
        cols: Range<usize>,
        _: &mut [f32],
        out: *mut f32,
    ) {
        let w = &self.0[row * k..][cols];
        // SAFETY: the caller's promise.
        unsafe { widen::<S, E>(s, w.as_ptr(), w.len(), w.len().next_multiple_of(LANES), out) }
    }
}

#[derive(Clone, Copy)]
pub(super) struct AffineRows<'a, const BITS: usize>(pub(super) Affine<'a>);

impl<const BITS: usize> Rows for AffineRows<'_, BITS> {
    fn spare(&self, k: usize) -> usize {
        spare(k, BITS).next_multiple_of(LANES) + 2 * (k / self.0.group).next_multiple_of(LANES)
    }

    #[inline(always)]
    unsafe fn widen<S: Simd>(
        &self,
        s: S,
        row: usize,
        k: usize,
        cols: Range<usize>,
        buffer: &mut [f32],
        out: *mut f32,
    ) {
        let group = self.0.group;
        let padded = (k / group).next_multiple_of(LANES);
        let (table, spare) = buffer.split_at_mut(2 * padded);
        let (scales, biases) = table.split_at_mut(padded);
        let (first, count) = (row * (k / group) + cols.start / group, cols.len() / group);
        // SAFETY: the tables hold all groups of a row, `row` leaves slack after it, the caller gave `out`.
        unsafe {
            let padded = count.next_multiple_of(LANES);
            widen_floats(s, self.0.scales, first, count, padded, scales.as_mut_ptr());
            widen_floats(s, self.0.biases, first, count, padded, biases.as_mut_ptr());
            let w = self.0.row::<BITS>(row, k, spare).add(packed(cols.start, BITS));
            affine_widen::<S, BITS>(s, w, scales.as_ptr(), biases.as_ptr(), cols.len(), group, out);
        }
    }
}

struct Panel<'a, W> {
    job: Job<'a>,
    w: W,
    x: &'a [f32],
    stride: usize,
    panel: &'a mut [f32],
    panel_stride: usize,
    spare: &'a mut [f32],
    rows: Range<usize>,
}

impl<W: Rows> Kernel for Panel<'_, W> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Job { m, k, .. } = self.job;
        let panel = self.panel.as_mut_ptr();
        let count = self.rows.len();
        let mut out = [[0.0; 4]; 6];
        let mut col = 0;
        while col < k {
            let cols = col..k.min(col + PANEL_K);
            let len = cols.len().next_multiple_of(LANES);
            for r in 0..count {
                // SAFETY: the panel holds `PANEL_N` rows of this stride.
                unsafe {
                    let out = panel.add(r * self.panel_stride);
                    self.w.widen(s, self.rows.start + r, k, cols.clone(), self.spare, out);
                }
            }
            let mut i = 0;
            while i < m {
                let tile = (m - i).min(S::TILE);
                let mut r = 0;
                while r < count {
                    let four = four(r, count);
                    // SAFETY: panel and activations are padded to `len`; columns of `y` from `rows.start`
                    // on are this piece's.
                    unsafe {
                        let mut w = [panel.cast_const(); 4];
                        for (w, r) in w.iter_mut().zip(four) {
                            *w = panel.add(r * self.panel_stride);
                        }
                        let x = self.x.as_ptr().add(i * self.stride + col);
                        dots_upto6::<S, F32>(s, w, x, self.stride, len, tile, &mut out);
                        for c in 0..tile {
                            let values = &out[c][..4.min(count - r)];
                            self.job.write(i + c, self.rows.start + r, values, col == 0);
                        }
                    }
                    r += 4;
                }
                i += tile;
            }
            col = cols.end;
        }
    }
}
