//! What goes into a cache and comes out of it.

use super::cache::KvCache;
use super::kind::KvKind;
use crate::array::MLXArray;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::ops::{self, Packing};
use crate::plan::Program;
use std::ops::Range;

/// Where bytes of a row are in an array of a cache, and where among the row's bytes.
struct Piece {
    here: Range<usize>,
    there: Range<usize>,
}

impl KvCache {
    /// The first `n` keys and values of a layer of the first slot of an f32 cache, `[n, width]` each.
    ///
    /// # Errors
    /// The device failed.
    pub(crate) fn rows(&self, layer: usize, n: usize) -> Result<[Vec<f32>; 2]> {
        let read = |part| Ok(bytemuck::pod_collect_to_vec(&self.stored(layer, part, n)?));
        Ok([read(0)?, read(1)?])
    }

    /// Rows that lie in a tile of a layer's keys, and of its values.
    pub(super) fn tile_rows(&self, layer: usize) -> usize {
        self.packing(layer).map_or(1, |[keys, _]| keys.tile[0])
    }

    /// How a layer's keys (0) or values (1) are coded, if that is in tiles.
    fn tiled(&self, layer: usize, part: usize) -> Option<Packing> {
        self.packing(layer).map(|packing| packing[part]).filter(|packing| packing.tile[0] > 1)
    }

    /// The pieces of row `at`, which has `row` bytes.
    fn pieces(&self, tiled: Option<Packing>, row: usize, at: usize) -> impl Iterator<Item = Piece> + use<> {
        let size = if tiled.is_some() { size_of::<u32>() } else { row };
        let [heads, d] = [self.kv_heads, self.head_dim];
        (0..row / size).map(move |w| {
            let from = tiled.map_or(at, |packing| packing.at(at, packing.sizes(heads, d), w));
            Piece { here: from * size..(from + 1) * size, there: w * size..(w + 1) * size }
        })
    }

    /// Rows of an array up to the last of these, in whole tiles.
    fn rows_to(&self, layer: usize, rows: impl Iterator<Item = Option<usize>>) -> usize {
        rows.flatten().max().map_or(0, |last| last + 1).next_multiple_of(self.tile_rows(layer))
    }

    /// What a layer's keys (0) or values (1) are of the first `n` tokens of the first slot, token after token; zeros where a
    /// token has gone.
    ///
    /// # Errors
    /// The device failed.
    pub(super) fn stored(&self, layer: usize, part: usize, n: usize) -> Result<Vec<u8>> {
        let (array, group) = (&self.layers[layer][part], self.group(layer));
        let (row, tiled) = (array.nbytes() / array.dims()[0], self.tiled(layer, part));
        let rows = (0..n).map(|position| group.row(0, position));
        let mut all = vec![0; self.rows_to(layer, rows.clone()) * row];
        if let Some(buffer) = array.buffer() {
            buffer.read(&mut all)?;
        }
        let mut bytes = vec![0; n * row];
        for (at, bytes) in rows.zip(bytes.chunks_exact_mut(row.max(1))) {
            for Piece { here, there } in at.into_iter().flat_map(|at| self.pieces(tiled, row, at)) {
                bytes[there].copy_from_slice(&all[here]);
            }
        }
        Ok(bytes)
    }

    /// The opposite: `bytes` are rows of the first tokens of the first slot.
    ///
    /// # Errors
    /// The device failed.
    pub(super) fn store(&self, layer: usize, part: usize, bytes: &[u8]) -> Result<()> {
        let (array, group) = (&self.layers[layer][part], self.group(layer));
        let (row, tiled) = (array.nbytes() / array.dims()[0], self.tiled(layer, part));
        let rows = (0..bytes.len() / row.max(1)).map(|position| group.row(0, position));
        let mut all = vec![0; self.rows_to(layer, rows.clone()) * row];
        for (at, bytes) in rows.zip(bytes.chunks_exact(row.max(1))) {
            for Piece { here, there } in at.into_iter().flat_map(|at| self.pieces(tiled, row, at)) {
                all[here].copy_from_slice(&bytes[there]);
            }
        }
        array.overwrite(&all)
    }

    /// The graph of writing rows `[t, width]` at `places` `[t, 2]` into a layer: its keys and values
    /// afterwards, each `[pages * 128, width]` or packed.
    pub(crate) fn write(
        &self,
        layer: usize,
        k: &MLXArray,
        v: &MLXArray,
        places: &MLXArray,
    ) -> (MLXArray, MLXArray) {
        let ([keys, values], table) = (&self.layers[layer], self.table(layer));
        let Some(packing) = self.packing(layer) else {
            let write = |cache, rows: &MLXArray| match self.kinds()[layer] {
                KvKind::Simulated(baseline) => MLXArray::apply(
                    ops::KvWrite,
                    &[cache, &baseline.round(rows, self.head_dim), places, table],
                ),
                _ => MLXArray::apply(ops::KvWrite, &[cache, rows, places, table]),
            };
            return (write(keys, k), write(values, v));
        };
        let pack = |i: usize, cache: &MLXArray, rows: &MLXArray| {
            let op = ops::KvPack { packing: packing[i], values: i == 1, head_dim: self.head_dim };
            match self.basis(layer) {
                Some(basis) => MLXArray::apply(op, &[cache, rows, places, table, basis]),
                None => MLXArray::apply(op, &[cache, rows, places, table]),
            }
        };
        (pack(0, keys, k), pack(1, values, v))
    }

    /// Queries `[t, heads, head_dim]` into the basis that the layer's keys lie in; or sums of its values out of it.
    pub(crate) fn turn(&self, layer: usize, x: &MLXArray, inverse: bool) -> MLXArray {
        match (self.packing(layer), self.basis(layer)) {
            (Some([packing, _]), Some(basis)) if !packing.affine => {
                MLXArray::apply(ops::Rotate { inverse }, &[x, basis])
            }
            (Some([packing, _]), None) if !packing.affine => MLXArray::apply(ops::Rotate { inverse }, &[x]),
            _ => x.clone(),
        }
    }

    /// Writes what the first slot of another cache holds, one of floats, into the first slot.
    ///
    /// # Errors
    /// `is_input`: a packed cache; no memory, a device that does not answer.
    pub(crate) fn take(&mut self, other: &Self) -> Result<()> {
        if let Some(kind) = other.kinds().iter().find(|kind| kind.packing().is_some()) {
            return Err(Error::input(format!("a cache of kind {kind} cannot become another")));
        }
        let device = self.device();
        let leaf = |words: &[u32], dims: &[usize]| {
            MLXArray::from_bytes(bytemuck::cast_slice(words), dims, Dtype::U32, device)
        };
        let n = other.slot_len(0);
        let chunk = self.groups.iter().map(|group| group.chunk).min().unwrap_or(n).min(n).max(1);
        for start in (0..n).step_by(chunk) {
            let end = n.min(start + chunk);
            self.reserve(0, end, n)?;
            let places: Vec<u32> = (start..end).flat_map(|position| self.place(0, position)).collect();
            let places = leaf(&places, &[end - start, 2])?;
            for (layer, [k, v]) in other.layers.iter().enumerate() {
                let group = other.group(layer);
                let rows = (start..end).map(|position| group.row(0, position).unwrap_or(0) as u32);
                let rows = leaf(&rows.collect::<Vec<_>>(), &[end - start])?;
                let rows = |x: &MLXArray| x.take(&rows, 0).astype(Dtype::F32);
                let (keys, values) = self.write(layer, &rows(k), &rows(v), &places);
                Program::new(&[keys, values])?.run()?;
            }
            self.advance(0, end - start);
        }
        Ok(())
    }
}
