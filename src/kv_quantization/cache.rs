//! The plain cache: f16 or f32.

use crate::array::{Device, MLXArray};
use crate::dtype::Dtype;
use crate::error::{Context, Error, Result};
use crate::memory::Buffer;
use crate::ops;
use std::fmt;
use std::str::FromStr;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KvKind {
    /// Half precision: the default on a GPU.
    F16,
    /// Single precision, exact: the default on the CPU.
    F32,
}

impl KvKind {
    /// Every kind, for help texts.
    pub const ALL: [Self; 2] = [Self::F16, Self::F32];

    /// The name on command lines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::F32 => "f32",
        }
    }

    /// What a device uses unless told otherwise.
    pub const fn default_for(device: Device) -> Self {
        match device {
            Device::CPU => Self::F32,
            Device::GPU => Self::F16,
        }
    }

    /// Bytes of the key and the value of one token in one layer, each of `width` numbers.
    pub const fn bytes_per_token(self, width: usize) -> u64 {
        2 * (width * self.dtype().size()) as u64
    }

    const fn dtype(self) -> Dtype {
        match self {
            Self::F16 => Dtype::F16,
            Self::F32 => Dtype::F32,
        }
    }
}

impl fmt::Display for KvKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for KvKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            Error::input(format!(
                "KV cache kind `{name}`; known are {}",
                Self::ALL.map(Self::name).join(", ")
            ))
        })
    }
}

/// Rows that a cache grows by at least.
const STEP: usize = 256;

/// Keys and values of the tokens so far, per layer: of one sequence, or of several in slots of equal length.
#[derive(Debug)]
pub struct KvCache {
    /// Keys and values, each `[slots * capacity, width]`; none before the first reservation.
    layers: Vec<[MLXArray; 2]>,
    layer_count: usize,
    width: usize,
    kind: KvKind,
    device: Device,
    /// Tokens in each slot.
    lens: Vec<usize>,
    /// Tokens that a slot has room for.
    capacity: usize,
    generation: u64,
}

impl KvCache {
    /// An empty cache of so many slots, for so many layers whose keys (and values) of one token are `width`
    /// numbers.
    pub(crate) fn new(layer_count: usize, width: usize, slots: usize, kind: KvKind, device: Device) -> Self {
        let lens = vec![0; slots.max(1)];
        Self { layers: Vec::new(), layer_count, width, kind, device, lens, capacity: 0, generation: 0 }
    }

    fn pair(&self, capacity: usize) -> Result<[MLXArray; 2]> {
        let one =
            || MLXArray::mutable(&[self.slots() * capacity, self.width], self.kind.dtype(), self.device);
        Ok([one()?, one()?])
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
        let row = self.width * self.kind.dtype().size();
        // Up to the last token of the last slot in use.
        let used = |capacity: usize| {
            let ends = self.lens.iter().enumerate().filter(|(_, len)| **len > 0);
            ends.map(|(slot, len)| (slot * capacity + len) * row).max().unwrap_or(0)
        };
        let (mut from, mut to) = (vec![0; used(self.capacity)], vec![0; used(capacity)]);
        let mut layers = Vec::with_capacity(self.layer_count);
        for layer in 0..self.layer_count {
            let new = self.pair(capacity).with_context(|| format!("a KV cache of {capacity} tokens"))?;
            let old = self.layers.get(layer).filter(|_| !from.is_empty());
            for (old, new) in old.into_iter().flatten().zip(&new) {
                if let Some(buffer) = old.buffer() {
                    buffer.read(&mut from)?;
                    for (slot, len) in self.lens.iter().enumerate().filter(|(_, len)| **len > 0) {
                        let kept = &from[slot * self.capacity * row..][..len * row];
                        to[slot * capacity * row..][..len * row].copy_from_slice(kept);
                    }
                    new.overwrite(&to)?;
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
    /// afterwards, each `[slots * capacity, width]`.
    pub(crate) fn write(
        &self,
        layer: usize,
        k: &MLXArray,
        v: &MLXArray,
        places: &MLXArray,
    ) -> (MLXArray, MLXArray) {
        let [keys, values] = &self.layers[layer];
        let write = |cache, rows| MLXArray::apply(ops::KvWrite, &[cache, rows, places]);
        (write(keys, k), write(values, v))
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
        let mut cache = KvCache::new(2, 3, 1, KvKind::F32, Device::CPU);
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
        let mut cache = KvCache::new(1, 2, 3, KvKind::F32, Device::CPU);
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
    fn kinds_have_names() {
        for kind in KvKind::ALL {
            assert_eq!(kind.name().parse::<KvKind>().unwrap(), kind);
        }
        assert!("int3".parse::<KvKind>().unwrap_err().is_input());
    }
}
