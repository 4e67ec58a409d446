//! The cache: a matrix of rows per layer for keys and one for values, as floats or packed.

use super::kind::KvKind;
use crate::array::{Device, MLXArray};
use crate::dtype::Dtype;
use crate::error::{Context, Error, Result};
use crate::memory::Buffer;
use crate::ops::{self, Packing};
use crate::plan::Program;

/// Rows that a cache grows by at least.
const STEP: usize = 256;

/// Keys and values of the tokens so far, per layer: of one sequence, or of several in slots of equal length.
#[derive(Debug)]
pub struct KvCache {
    /// Keys and values, each `[slots * capacity, width]` or, packed, `[.., words]`; none before the first
    /// reservation.
    pub(super) layers: Vec<[MLXArray; 2]>,
    /// The basis of each layer's heads, `[8, width]`, where the kind asks for one.
    pub(super) bases: Vec<MLXArray>,
    pub(super) layer_count: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    kind: KvKind,
    device: Device,
    /// Tokens in each slot.
    lens: Vec<usize>,
    /// Tokens that a slot has room for.
    capacity: usize,
    generation: u64,
}

impl KvCache {
    /// An empty cache of so many slots, for so many layers with so many key heads (and value heads).
    pub(crate) fn new(
        layer_count: usize,
        [kv_heads, head_dim]: [usize; 2],
        slots: usize,
        kind: KvKind,
        device: Device,
    ) -> Self {
        Self {
            layers: Vec::new(),
            bases: Vec::new(),
            layer_count,
            kv_heads,
            head_dim,
            kind,
            device,
            lens: vec![0; slots.max(1)],
            capacity: 0,
            generation: 0,
        }
    }

    fn pair(&self, capacity: usize) -> Result<[MLXArray; 2]> {
        let one = |i: usize| {
            let width = self.kind.packing().map_or(self.kv_heads * self.head_dim, |packing| {
                packing[i].row_words(self.kv_heads, self.head_dim)
            });
            MLXArray::mutable(&[self.slots() * capacity, width], self.kind.dtype(), self.device)
        };
        Ok([one(0)?, one(1)?])
    }

    /// Whether heads are to lie in a basis that nobody has told yet.
    pub(crate) fn wants_bases(&self) -> bool {
        self.kind.has_basis() && self.bases.is_empty()
    }

    /// Says in what basis the heads of each layer lie, `[8, width]`, before anything is written.
    ///
    /// # Errors
    /// Not enough memory.
    pub(crate) fn set_bases(&mut self, bases: &[Vec<f32>]) -> Result<()> {
        let array = |values: &Vec<f32>| {
            MLXArray::from_bytes(
                bytemuck::cast_slice(values),
                &[8, values.len() / 8],
                Dtype::F32,
                self.device,
            )
        };
        self.bases = bases.iter().map(array).collect::<Result<_>>()?;
        self.generation += 1;
        Ok(())
    }

    /// The first `n` keys and values of a layer of the first slot of an f32 cache, `[n, width]` each.
    ///
    /// # Errors
    /// The device failed.
    pub(crate) fn rows(&self, layer: usize, n: usize) -> Result<[Vec<f32>; 2]> {
        let width = self.kv_heads * self.head_dim;
        let [mut keys, mut values] = [vec![0f32; n * width], vec![0f32; n * width]];
        for (array, rows) in self.layers[layer].iter().zip([&mut keys, &mut values]) {
            if let Some(buffer) = array.buffer() {
                buffer.read(bytemuck::cast_slice_mut(rows))?;
            }
        }
        Ok([keys, values])
    }

    /// Makes room for `tokens` tokens in all in each slot, `most` being the context length. Tokens that are there stay.
    ///
    /// # Errors
    /// Not enough memory; then the cache is as it was.
    pub(crate) fn reserve(&mut self, tokens: usize, most: usize) -> Result<()> {
        if tokens <= self.capacity {
            return Ok(());
        }
        // Half as much again, so that a long text is copied a logarithmic number of times.
        let wanted = tokens.max(self.capacity + self.capacity / 2).next_multiple_of(STEP);
        let capacity = wanted.min(most.max(tokens));
        let mut layers = Vec::with_capacity(self.layer_count);
        for layer in 0..self.layer_count {
            let new = self.pair(capacity).with_context(|| format!("a KV cache of {capacity} tokens"))?;
            let old = self.layers.get(layer).filter(|_| !self.is_empty());
            for (old, new) in old.into_iter().flatten().zip(&new) {
                let row = old.nbytes() / old.dims()[0];
                let slots = self.lens.iter().enumerate().filter(|(_, len)| **len > 0);
                let parts: Vec<[usize; 3]> = slots
                    .map(|(slot, len)| [slot * self.capacity * row, slot * capacity * row, len * row])
                    .collect();
                if let (Some(old), Some(new)) = (old.buffer(), new.buffer()) {
                    new.copy_from(&old, &parts)?;
                }
            }
            layers.push(new);
        }
        self.layers = layers;
        self.capacity = capacity;
        self.generation += 1;
        Ok(())
    }

    /// The graph of writing rows `[t, width]` at `places` `[t, 2]` into a layer: its keys and values
    /// afterwards, each `[slots * capacity, width]` or packed.
    pub(crate) fn write(
        &self,
        layer: usize,
        k: &MLXArray,
        v: &MLXArray,
        places: &MLXArray,
    ) -> (MLXArray, MLXArray) {
        let [keys, values] = &self.layers[layer];
        let Some(packing) = self.kind.packing() else {
            let write = |cache, rows: &MLXArray| match self.kind {
                KvKind::Simulated(baseline) => {
                    MLXArray::apply(ops::KvWrite, &[cache, &baseline.round(rows, self.head_dim), places])
                }
                _ => MLXArray::apply(ops::KvWrite, &[cache, rows, places]),
            };
            return (write(keys, k), write(values, v));
        };
        let pack = |i: usize, cache: &MLXArray, rows: &MLXArray| {
            let op = ops::KvPack { packing: packing[i], values: i == 1, head_dim: self.head_dim };
            match self.bases.get(layer) {
                Some(basis) => MLXArray::apply(op, &[cache, rows, places, basis]),
                None => MLXArray::apply(op, &[cache, rows, places]),
            }
        };
        (pack(0, keys, k), pack(1, values, v))
    }

    /// Queries `[t, heads, head_dim]` into the basis that the layer's keys lie in; or sums of its values out of it.
    pub(crate) fn turn(&self, layer: usize, x: &MLXArray, inverse: bool) -> MLXArray {
        match (self.kind.packing(), self.bases.get(layer)) {
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
        if other.packing().is_some() {
            return Err(Error::input(format!("a cache of kind {} cannot become another", other.kind)));
        }
        let n = other.slot_len(0);
        let places: Vec<u32> = (0..n).flat_map(|position| self.place(0, position)).collect();
        let places = MLXArray::from_bytes(bytemuck::cast_slice(&places), &[n, 2], Dtype::U32, self.device)?;
        for (layer, [k, v]) in other.layers.iter().enumerate() {
            let rows = |x: &MLXArray| x.slice(0, 0, n).astype(Dtype::F32);
            let (keys, values) = self.write(layer, &rows(k), &rows(v), &places);
            Program::new(&[keys, values])?.run()?;
        }
        self.advance(0, n);
        Ok(())
    }

    /// Copies the first `tokens` tokens of a slot into another, on the device; what the other had is forgotten.
    ///
    /// # Errors
    /// No memory, a device that does not answer.
    pub(crate) fn copy_prefix(&mut self, from: usize, to: usize, tokens: usize) -> Result<()> {
        if from == to {
            return Ok(());
        }
        let tokens = tokens.min(self.lens[from]);
        self.lens[to] = 0;
        let moves = self.layers.iter().flatten().filter_map(|matrix| {
            let row = matrix.nbytes() / matrix.dims()[0];
            let at = |slot: usize| slot * self.capacity * row;
            Some((matrix.buffer()?, at(from), at(to), tokens * row))
        });
        Buffer::copy_within(&moves.collect::<Vec<_>>())?;
        self.lens[to] = tokens;
        Ok(())
    }

    /// How keys and values are coded, if they are not floats.
    pub(crate) fn packing(&self) -> Option<[Packing; 2]> {
        self.kind.packing()
    }

    /// The place of a position in a slot: the position, and the row at which the slot begins.
    pub(crate) fn place(&self, slot: usize, position: usize) -> [u32; 2] {
        [position as u32, (slot * self.capacity) as u32]
    }

    /// Says that the rows of `tokens` more tokens have been written to a slot.
    pub(crate) fn advance(&mut self, slot: usize, tokens: usize) {
        self.lens[slot] += tokens;
    }

    /// Forgets all but the first `len` tokens of a slot.
    pub(crate) fn truncate(&mut self, slot: usize, len: usize) {
        self.lens[slot] = self.lens[slot].min(len);
    }

    /// Tokens that a slot holds.
    pub(crate) fn slot_len(&self, slot: usize) -> usize {
        self.lens[slot]
    }

    /// Sequences that there is room for.
    pub fn slots(&self) -> usize {
        self.lens.len()
    }

    /// What the keys and values lie in.
    pub(crate) fn buffers(&self) -> Vec<Buffer> {
        self.layers.iter().flatten().filter_map(MLXArray::buffer).collect()
    }

    /// Changes whenever the buffers are replaced.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Tokens that are remembered, of all sequences.
    pub fn len(&self) -> usize {
        self.lens.iter().sum()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens that there is room for in each slot without growing.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// How keys and values are stored.
    pub fn kind(&self) -> KvKind {
        self.kind
    }

    /// Bytes of all buffers.
    pub fn bytes(&self) -> usize {
        self.layers.iter().flatten().map(MLXArray::nbytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growing_keeps_what_is_there() {
        let mut cache = KvCache::new(2, [1, 3], 1, KvKind::F32, Device::CPU);
        assert_eq!((cache.bytes(), cache.capacity()), (0, 0));
        cache.reserve(2, 1000).unwrap();
        assert_eq!((cache.capacity(), cache.bytes()), (256, 2 * 2 * 256 * 3 * 4));
        let rows: Vec<f32> = (0..6).map(|i| i as f32).collect();
        cache.layers[1][0].overwrite(bytemuck::cast_slice(&rows)).unwrap();
        cache.advance(0, 2);
        let before = cache.generation();
        cache.reserve(256, 1000).unwrap();
        assert_eq!(cache.generation(), before);
        cache.reserve(257, 1000).unwrap();
        assert_eq!((cache.capacity(), cache.generation()), (512, before + 1));
        assert_eq!(cache.layers[1][0].data()[..6], rows);
        cache.reserve(900, 1000).unwrap();
        assert_eq!(cache.capacity(), 1000); // the context length is enough
        cache.truncate(0, 1);
        assert_eq!(cache.len(), 1);
    }

    #[test]
    fn growing_moves_every_slot() {
        let mut cache = KvCache::new(1, [2, 1], 3, KvKind::F32, Device::CPU);
        cache.reserve(1, 1000).unwrap();
        let rows: Vec<f32> = (0..2 * 3 * 256).map(|i| i as f32).collect();
        cache.layers[0][1].overwrite(bytemuck::cast_slice(&rows)).unwrap();
        cache.advance(0, 1);
        cache.advance(2, 2);
        assert_eq!((cache.len(), cache.place(2, 7)), (3, [7, 512]));
        cache.reserve(300, 1000).unwrap();
        assert_eq!((cache.bytes(), cache.place(2, 7)), (2 * 3 * 512 * 2 * 4, [7, 1024]));
        let moved = cache.layers[0][1].data();
        assert_eq!((&moved[..2], &moved[2048..2052]), (&rows[..2], &rows[1024..1028]));
        assert!(moved[2..2048].iter().all(|x| *x == 0.0));
    }

    #[test]
    fn a_prefix_is_copied_to_another_slot() {
        for device in [Device::CPU, Device::GPU] {
            let mut cache = KvCache::new(2, [1, 4], 3, KvKind::F32, device);
            cache.reserve(1, 1000).unwrap();
            let rows: Vec<f32> = (0..3 * 256 * 4).map(|i| i as f32).collect();
            cache.layers[1][0].overwrite(bytemuck::cast_slice(&rows)).unwrap();
            (cache.lens[0], cache.lens[2]) = (5, 9);
            cache.copy_prefix(0, 2, 3).unwrap();
            assert_eq!(cache.lens, [5, 0, 3]);
            let after = cache.layers[1][0].data();
            assert_eq!((&after[2048..2060], &after[2060..]), (&rows[..12], &rows[2060..]));
            assert_eq!(after[..2048], rows[..2048]);
        }
    }

    #[test]
    fn packed_rows_grow_as_well() {
        let mut cache = KvCache::new(1, [2, 64], 2, KvKind::K4V3, Device::CPU);
        cache.reserve(1, 1000).unwrap();
        assert_eq!(cache.bytes() as u64, 2 * 256 * KvKind::K4V3.bytes_per_token(2, 64));
        let words: Vec<u32> = (0..2 * 256 * 13).collect(); // values: 2 heads of 6 words, a word of scales
        cache.layers[0][1].overwrite(bytemuck::cast_slice(&words)).unwrap();
        cache.advance(1, 3);
        cache.reserve(300, 1000).unwrap();
        let mut moved = vec![0u32; 2 * 512 * 13];
        cache.layers[0][1].buffer().unwrap().read(bytemuck::cast_slice_mut(&mut moved)).unwrap();
        assert_eq!(moved[512 * 13..][..39], words[256 * 13..][..39]);
        assert!(cache.wants_bases());
    }
}
