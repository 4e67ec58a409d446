//! The cache: a matrix of rows per layer for keys and one for values, as floats or packed.

use super::group::Group;
use super::kind::KvKind;
use super::pages::{Name, Names};
use crate::array::{Device, MLXArray};
use crate::cpu::PAGE;
use crate::dtype::Dtype;
use crate::error::{Context, Error, Result};
use crate::memory::Buffer;
use crate::ops::{self, Packing};
use crate::plan::Program;

/// Tokens that a sequence's table grows by at least.
const STEP: usize = 256;

/// Keys and values of the tokens so far, per layer: of one sequence, or of several in slots that share its pages.
#[derive(Debug)]
pub struct KvCache {
    /// Keys and values, each `[pages * 128, width]` or, packed, `[.., words]`; none before the first reservation.
    pub(super) layers: Vec<[MLXArray; 2]>,
    /// Which sequence has which pages.
    pub(super) group: Group,
    /// The basis of each layer's heads, `[8, width]`, where the kind asks for one.
    pub(super) bases: Vec<MLXArray>,
    pub(super) layer_count: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    kind: KvKind,
    device: Device,
    /// Tokens in each slot.
    pub(super) lens: Vec<usize>,
    /// Names of the first full pages of each slot.
    pub(super) named: Vec<Vec<Name>>,
    pub(super) names: Names,
    /// Tokens that a slot's table has room for: whole pages.
    pub(super) capacity: usize,
    /// Pages that there may be.
    pub(super) budget: usize,
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
        let slots = slots.max(1);
        Self {
            layers: Vec::new(),
            group: Group::new(slots),
            bases: Vec::new(),
            layer_count,
            kv_heads,
            head_dim,
            kind,
            device,
            lens: vec![0; slots],
            named: vec![Vec::new(); slots],
            names: Names::default(),
            capacity: 0,
            budget: usize::MAX,
            generation: 0,
        }
    }

    /// Says how many tokens all sequences together may have, in whole pages.
    pub(crate) fn set_budget(&mut self, tokens: usize) {
        self.budget = tokens / PAGE;
    }

    /// An array for keys and one for values of a layer.
    fn pair(&self, pages: usize) -> Result<[MLXArray; 2]> {
        let one = |i: usize| {
            let width = self.kind.packing().map_or(self.kv_heads * self.head_dim, |packing| {
                packing[i].row_words(self.kv_heads, self.head_dim)
            });
            MLXArray::mutable(&[pages * PAGE, width], self.kind.dtype(), self.device)
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
        let [keys, values] = &self.layers[layer];
        let read = |array| Ok(bytemuck::pod_collect_to_vec(&self.stored(array, n)?));
        Ok([read(keys)?, read(values)?])
    }

    /// What an array of a layer holds of the first `n` tokens of the first slot, token after token.
    ///
    /// # Errors
    /// The device failed.
    pub(super) fn stored(&self, array: &MLXArray, n: usize) -> Result<Vec<u8>> {
        let row = array.nbytes() / array.dims()[0];
        let rows = (0..n).map(|position| self.group.row(0, position));
        let mut all = vec![0; rows.clone().max().map_or(0, |last| last + 1) * row];
        if let Some(buffer) = array.buffer() {
            buffer.read(&mut all)?;
        }
        Ok(rows.flat_map(|at| &all[at * row..][..row]).copied().collect())
    }

    /// The opposite: `bytes` are rows of the first tokens of the first slot, which has pages for them.
    ///
    /// # Errors
    /// The device failed.
    pub(super) fn store(&self, array: &MLXArray, bytes: &[u8]) -> Result<()> {
        let row = array.nbytes() / array.dims()[0];
        let rows = (0..bytes.len() / row).map(|position| self.group.row(0, position));
        let mut all = vec![0; rows.clone().max().map_or(0, |last| last + 1) * row];
        for (at, bytes) in rows.zip(bytes.chunks_exact(row)) {
            all[at * row..][..row].copy_from_slice(bytes);
        }
        array.overwrite(&all)
    }

    /// Makes room for `tokens` tokens in all in a slot, `most` being the context length. Tokens that are there stay.
    ///
    /// # Errors
    /// Not enough memory; then every sequence is as it was, but for pages that it has too many.
    pub(crate) fn reserve(&mut self, slot: usize, tokens: usize, most: usize) -> Result<()> {
        self.widen(tokens, most)?;
        let lacking = self.group.lacks(slot, tokens);
        if lacking > self.group.pages.free() {
            self.grow(lacking - self.group.pages.free())
                .with_context(|| format!("a KV cache for {tokens} tokens of one text"))?;
        }
        self.group.extend(slot, tokens);
        self.own(slot)?;
        self.group.flush()
    }

    /// Makes the tables of all slots long enough for so many tokens in each.
    pub(super) fn widen(&mut self, tokens: usize, most: usize) -> Result<()> {
        if tokens <= self.capacity {
            return Ok(());
        }
        // Half as much again, so that programs change a logarithmic number of times.
        let wanted = tokens.max(self.capacity + self.capacity / 2).next_multiple_of(STEP);
        let capacity = wanted.min(most.max(tokens)).next_multiple_of(PAGE);
        self.group.widen(capacity / PAGE, self.device)?;
        self.capacity = capacity;
        self.generation += 1;
        Ok(())
    }

    /// Adds at least so many pages. Arrays are replaced, their content moves.
    pub(super) fn grow(&mut self, lacking: usize) -> Result<()> {
        let (before, slots) = (self.group.pages.total(), self.slots());
        let least = before + lacking;
        if least > self.budget {
            return Err(Error::memory(format!(
                "it has {} tokens of room for all texts, and {} are free",
                self.budget * PAGE,
                (self.budget - before.min(self.budget) + self.group.pages.free()) * PAGE
            )));
        }
        // One sequence gets what its table has room for; several share, and a long one may take what others do not.
        let usual = if slots == 1 { self.capacity / PAGE } else { (before + before / 2).max(2 * slots) };
        let total = least.max(usual).min(self.budget);
        let mut layers = Vec::with_capacity(self.layer_count);
        for layer in 0..self.layer_count {
            let new = self.pair(total)?;
            for (old, new) in self.layers.get(layer).into_iter().flatten().zip(&new) {
                if let (Some(from), Some(to)) = (old.buffer(), new.buffer()) {
                    to.copy_from(&from, &[[0, 0, old.nbytes()]])?;
                }
            }
            layers.push(new);
        }
        self.layers = layers;
        self.group.pages.grow(total);
        self.generation += 1;
        Ok(())
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
        let Some(packing) = self.kind.packing() else {
            let write = |cache, rows: &MLXArray| match self.kind {
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
            match self.bases.get(layer) {
                Some(basis) => MLXArray::apply(op, &[cache, rows, places, table, basis]),
                None => MLXArray::apply(op, &[cache, rows, places, table]),
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
        let leaf = |words: &[u32], dims: &[usize]| {
            MLXArray::from_bytes(bytemuck::cast_slice(words), dims, Dtype::U32, self.device)
        };
        let places: Vec<u32> = (0..n).flat_map(|position| self.place(0, position)).collect();
        let rows: Vec<u32> = (0..n).map(|position| other.group.row(0, position) as u32).collect();
        let (places, rows) = (leaf(&places, &[n, 2])?, leaf(&rows, &[n])?);
        for (layer, [k, v]) in other.layers.iter().enumerate() {
            let rows = |x: &MLXArray| x.take(&rows, 0).astype(Dtype::F32);
            let (keys, values) = self.write(layer, &rows(k), &rows(v), &places);
            Program::new(&[keys, values])?.run()?;
        }
        self.advance(0, n);
        Ok(())
    }

    /// How keys and values are coded, if they are not floats.
    pub(crate) fn packing(&self) -> Option<[Packing; 2]> {
        self.kind.packing()
    }

    /// What pages sequences have in a layer, `[slots * pages of a slot]`.
    ///
    /// # Panics
    /// Before the first reservation.
    pub(crate) fn table(&self, _layer: usize) -> &MLXArray {
        self.group.table().unwrap_or_else(|e| panic!("{e}"))
    }

    /// The place of a position in a slot: the position, and the logical row at which the slot begins.
    pub(crate) fn place(&self, slot: usize, position: usize) -> [u32; 2] {
        [position as u32, (slot * self.capacity) as u32]
    }

    /// Says that the rows of `tokens` more tokens have been written to a slot.
    pub(crate) fn advance(&mut self, slot: usize, tokens: usize) {
        self.lens[slot] += tokens;
    }

    /// Forgets all but the first `len` tokens of a slot, and gives back the pages that these do not need.
    pub(crate) fn truncate(&mut self, slot: usize, len: usize) {
        self.lens[slot] = self.lens[slot].min(len);
        self.named[slot].truncate(self.lens[slot] / PAGE);
        self.group.trim(slot, self.lens[slot]);
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

    /// Tokens that a slot may have before plans are made anew.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Pages that there are, of 128 tokens of all layers each.
    pub fn pages(&self) -> usize {
        self.group.pages.total()
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

    /// Fills what a layer's values are stored in with their own numbers.
    fn number(cache: &KvCache) -> Vec<f32> {
        let array = &cache.layers[0][1];
        let all: Vec<f32> = (0..array.size()).map(|i| i as f32).collect();
        array.overwrite(bytemuck::cast_slice(&all)).unwrap();
        all
    }

    #[test]
    fn growing_keeps_what_is_there() {
        let mut cache = KvCache::new(1, [1, 3], 1, KvKind::F32, Device::CPU);
        assert_eq!((cache.bytes(), cache.capacity()), (0, 0));
        cache.reserve(0, 2, 1000).unwrap();
        assert_eq!((cache.capacity(), cache.bytes()), (256, 2 * 256 * 3 * 4));
        let rows = number(&cache);
        cache.advance(0, 200);
        let before = cache.generation();
        cache.reserve(0, 256, 1000).unwrap();
        assert_eq!(cache.generation(), before);
        cache.reserve(0, 257, 1000).unwrap();
        assert_eq!((cache.capacity(), cache.pages()), (512, 4));
        assert!(cache.generation() > before);
        let now = cache.stored(&cache.layers[0][1], 200).unwrap();
        assert_eq!(bytemuck::pod_collect_to_vec::<u8, f32>(&now), rows[..600]);
        cache.reserve(0, 900, 1000).unwrap();
        assert_eq!(cache.capacity(), 1024); // the context length is enough
        cache.truncate(0, 1);
        assert_eq!((cache.len(), cache.pages()), (1, 8));
    }

    /// What a slot has, as the numbers of [`number`].
    fn rows(cache: &KvCache, slot: usize) -> Vec<usize> {
        (0..cache.slot_len(slot)).map(|position| cache.group.row(slot, position)).collect()
    }

    #[test]
    fn one_long_and_several_short_sequences_fit_where_equal_slots_would_not() {
        let mut cache = KvCache::new(1, [1, 1], 4, KvKind::F32, Device::CPU);
        cache.set_budget(12 * PAGE);
        for (slot, tokens) in [(0, 9 * PAGE), (1, 1), (2, PAGE), (3, 5)] {
            cache.reserve(slot, tokens, 4096).unwrap();
            cache.advance(slot, tokens);
        }
        assert_eq!(cache.pages(), 12);
        let mut all: Vec<usize> = (0..4).flat_map(|slot| rows(&cache, slot)).collect();
        let n = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!((all.len(), cache.len()), (n, n));
        let e = cache.reserve(1, PAGE + 1, 4096).unwrap_err();
        assert!(e.is_memory() && e.to_string().contains("1536"), "{e}");
        // Room that another gives back.
        cache.truncate(0, 8 * PAGE);
        cache.reserve(1, PAGE + 1, 4096).unwrap();
        assert_eq!(cache.place(2, 7), [7, 2 * cache.capacity() as u32]);
    }

    #[test]
    fn packed_rows_grow_as_well() {
        let mut cache = KvCache::new(1, [2, 64], 2, KvKind::K4V3, Device::CPU);
        cache.reserve(1, 1, 1000).unwrap();
        assert_eq!(cache.bytes() as u64, (cache.pages() * PAGE) as u64 * KvKind::K4V3.bytes_per_token(2, 64));
        cache.advance(1, 3);
        // Values: 2 heads of 6 words, a word of scales.
        let words: Vec<u32> = (0..3 * 13).collect();
        let array = cache.layers[0][1].clone();
        let mut image = vec![0u32; array.size()];
        let at = cache.group.row(1, 0) * 13;
        image[at..at + 39].copy_from_slice(&words);
        array.overwrite(bytemuck::cast_slice(&image)).unwrap();
        cache.reserve(1, 900, 1000).unwrap();
        let mut moved = vec![0u32; cache.layers[0][1].size()];
        cache.layers[0][1].buffer().unwrap().read(bytemuck::cast_slice_mut(&mut moved)).unwrap();
        assert_eq!(moved[cache.group.row(1, 0) * 13..][..39], words);
        assert!(cache.wants_bases());
    }
}
