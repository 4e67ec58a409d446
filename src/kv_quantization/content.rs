//! What goes into a cache and comes out of it.

use super::cache::KvCache;
use super::kind::KvKind;
use crate::array::MLXArray;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::ops;
use crate::plan::Program;

impl KvCache {
    /// The first `n` keys and values of a layer of the first slot of an f32 cache, `[n, width]` each.
    ///
    /// # Errors
    /// The device failed.
    pub(crate) fn rows(&self, layer: usize, n: usize) -> Result<[Vec<f32>; 2]> {
        let [keys, values] = &self.layers[layer];
        let read = |array| Ok(bytemuck::pod_collect_to_vec(&self.stored(layer, array, n)?));
        Ok([read(keys)?, read(values)?])
    }

    /// What an array of a layer holds of the first `n` tokens of the first slot, token after token; zeros where a token has
    /// gone.
    ///
    /// # Errors
    /// The device failed.
    pub(super) fn stored(&self, layer: usize, array: &MLXArray, n: usize) -> Result<Vec<u8>> {
        let (row, group) = (array.nbytes() / array.dims()[0], self.group(layer));
        let rows = (0..n).map(|position| group.row(0, position));
        let mut all = vec![0; rows.clone().flatten().max().map_or(0, |last| last + 1) * row];
        if let Some(buffer) = array.buffer() {
            buffer.read(&mut all)?;
        }
        let mut bytes = vec![0; n * row];
        for (at, bytes) in rows.zip(bytes.chunks_exact_mut(row.max(1))) {
            if let Some(at) = at {
                bytes.copy_from_slice(&all[at * row..][..row]);
            }
        }
        Ok(bytes)
    }

    /// The opposite: `bytes` are rows of the first tokens of the first slot.
    ///
    /// # Errors
    /// The device failed.
    pub(super) fn store(&self, layer: usize, array: &MLXArray, bytes: &[u8]) -> Result<()> {
        let (row, group) = (array.nbytes() / array.dims()[0], self.group(layer));
        let rows = (0..bytes.len() / row.max(1)).map(|position| group.row(0, position));
        let mut all = vec![0; rows.clone().flatten().max().map_or(0, |last| last + 1) * row];
        for (at, bytes) in rows.zip(bytes.chunks_exact(row.max(1))) {
            if let Some(at) = at {
                all[at * row..][..row].copy_from_slice(bytes);
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
