//! The cache: a matrix of rows per layer for keys and one for values, as floats or packed.

use super::group::Group;
use super::kind::KvKind;
use super::pages::{Name, Names};
use crate::array::{Device, MLXArray};
use crate::cpu::{BASIS_ROWS, PAGE};
use crate::dtype::Dtype;
use crate::error::{Context, Error, Result};
use crate::memory::Buffer;
use crate::ops::{Packing, laid_out};

/// Tokens that a sequence's table grows by at least.
const STEP: usize = 256;

/// Keys and values of the tokens so far, per layer: of one sequence, or of several in slots that share its pages.
#[derive(Debug)]
pub struct KvCache {
    /// Keys and values, each `[pages * 128, width]` or, packed, `[.., words]`; none before the first reservation.
    pub(super) layers: Vec<[MLXArray; 2]>,
    /// Which sequence has which pages, of layers that see equally far; those that see most are the first.
    pub(super) groups: Vec<Group>,
    /// The group of each layer.
    group_of: Vec<usize>,
    /// The basis of each layer's heads, `[5, width]`, where any kind asks for one.
    pub(super) bases: Vec<MLXArray>,
    pub(super) layer_count: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    /// How each layer stores them.
    kinds: Vec<KvKind>,
    /// How many kinds were asked for: more than there are layers is an error.
    said: usize,
    device: Device,
    /// Tokens in each slot.
    pub(super) lens: Vec<usize>,
    /// Names of the first full pages of each slot.
    pub(super) named: Vec<Vec<Name>>,
    pub(super) names: Names,
    /// Tokens that a slot's table has room for: whole pages.
    pub(super) capacity: usize,
    /// The most pages that a group may have.
    pub(super) budget: usize,
    generation: u64,
}

impl KvCache {
    /// An empty cache of `slots` slots, for layers that see as many tokens as `windows` says (`None`: all), with
    /// `kv_heads` key heads and as many value heads.
    pub(crate) fn new(
        windows: &[Option<usize>],
        [kv_heads, head_dim]: [usize; 2],
        slots: usize,
        kind: KvKind,
        device: Device,
    ) -> Self {
        let slots = slots.max(1);
        let far = |window: &Option<usize>| std::cmp::Reverse(window.unwrap_or(usize::MAX));
        let mut distinct = windows.to_vec();
        distinct.sort_by_key(far);
        distinct.dedup();
        let group_of = |window| distinct.iter().position(|known| known == window).unwrap_or(0);
        Self {
            layers: Vec::new(),
            groups: distinct.iter().map(|window| Group::new(slots, *window)).collect(),
            group_of: windows.iter().map(group_of).collect(),
            bases: Vec::new(),
            layer_count: windows.len(),
            kv_heads,
            head_dim,
            kinds: vec![kind; windows.len()],
            said: 1,
            device,
            lens: vec![0; slots],
            named: vec![Vec::new(); slots],
            names: Names::default(),
            capacity: 0,
            budget: usize::MAX,
            generation: 0,
        }
    }

    /// Chooses how each layer stores keys and values, before the first reservation: the first layers are stored as
    /// `kinds` says, one each, and all others as the last of these.
    pub(crate) fn set_kinds(&mut self, kinds: &[KvKind]) {
        self.said = kinds.len();
        for (layer, kind) in self.kinds.iter_mut().enumerate() {
            *kind = *kinds.get(layer).or(kinds.last()).unwrap_or(kind);
        }
    }

    /// Limits all sequences together to `tokens` tokens, in whole pages, which are all made on first use.
    pub(crate) fn set_budget(&mut self, tokens: usize) {
        self.budget = tokens / PAGE;
    }

    /// Says how many tokens go through the model at once, at most: layers with a window have room for these as well.
    pub(crate) fn set_chunk(&mut self, tokens: usize) {
        self.groups.iter_mut().for_each(|group| group.chunk = tokens);
    }

    /// The pages of a layer.
    pub(super) fn group(&self, layer: usize) -> &Group {
        &self.groups[self.group_of[layer]]
    }

    /// The layers of a group.
    pub(super) fn layers_of(&self, group: usize) -> impl Iterator<Item = usize> + '_ {
        self.group_of.iter().enumerate().filter(move |(_, of)| **of == group).map(|(layer, _)| layer)
    }

    /// Pages that a group may have.
    pub(super) fn budget_of(&self, group: usize) -> usize {
        let windows = self.groups[group].window().map(|_| self.groups[group].most(usize::MAX));
        windows.map_or(self.budget, |each| self.budget.min(each.saturating_mul(self.slots())))
    }

    /// An array for keys and one for values of a layer.
    fn pair(&self, layer: usize, pages: usize) -> Result<[MLXArray; 2]> {
        let one = |i: usize| {
            let width = self.kinds[layer].packing().map_or(self.kv_heads * self.head_dim, |packing| {
                packing[i].row_words(self.kv_heads, self.head_dim)
            });
            MLXArray::mutable(&[pages * PAGE, width], self.kinds[layer].dtype(), self.device)
        };
        Ok([one(0)?, one(1)?])
    }

    /// Whether heads are to lie in a basis that has not been set yet.
    pub(crate) fn wants_bases(&self) -> bool {
        self.bases.is_empty() && self.kinds.iter().any(|kind| kind.has_basis())
    }

    /// Says in what basis the heads of each layer lie, `[5, width]`, before anything is written.
    ///
    /// # Errors
    /// Not enough memory.
    pub(crate) fn set_bases(&mut self, bases: &[Vec<f32>]) -> Result<()> {
        let array = |values: &Vec<f32>| {
            MLXArray::from_bytes(
                bytemuck::cast_slice(values),
                &[BASIS_ROWS, values.len() / BASIS_ROWS],
                Dtype::F32,
                self.device,
            )
        };
        self.bases = bases.iter().map(array).collect::<Result<_>>()?;
        self.generation += 1;
        Ok(())
    }

    /// Whether `tokens` tokens in a slot take more pages than there are, and may: arrays are then replaced by larger ones.
    pub(crate) fn must_grow(&self, slot: usize, tokens: usize) -> bool {
        (0..self.groups.len()).any(|group| {
            let lacking = self.lacking(group, slot, tokens);
            lacking > 0 && self.groups[group].pages.total() + lacking <= self.budget_of(group)
        })
    }

    /// How many more pages a group needs for `tokens` tokens in a slot than are free.
    fn lacking(&self, group: usize, slot: usize, tokens: usize) -> usize {
        let group = &self.groups[group];
        group.lacks(slot, self.lens[slot], tokens).saturating_sub(group.pages.free())
    }

    /// Makes room for `tokens` tokens in all in a slot, `most` being the context length. Tokens that are there stay.
    ///
    /// # Errors
    /// Not enough memory; then every sequence is as it was, though it may have more pages than it needs.
    pub(crate) fn reserve(&mut self, slot: usize, tokens: usize, most: usize) -> Result<()> {
        self.widen(tokens, most)?;
        let len = self.lens[slot];
        for group in 0..self.groups.len() {
            let lacking = self.lacking(group, slot, tokens);
            if lacking > 0 {
                self.grow(group, lacking)
                    .with_context(|| format!("a KV cache for {tokens} tokens of one text"))?;
            }
            self.groups[group].extend(slot, len, tokens);
            self.own(group, slot)?;
            self.groups[group].flush()?;
        }
        Ok(())
    }

    /// Makes the tables of all slots long enough for `tokens` tokens in each.
    pub(super) fn widen(&mut self, tokens: usize, most: usize) -> Result<()> {
        if tokens <= self.capacity {
            return Ok(());
        }
        // Half as much again, so that programs change a logarithmic number of times.
        let wanted = tokens.max(self.capacity + self.capacity / 2).next_multiple_of(STEP);
        let capacity = wanted.min(most.max(tokens)).next_multiple_of(PAGE);
        for group in &mut self.groups {
            group.widen(capacity / PAGE, self.device)?;
        }
        self.capacity = capacity;
        self.generation += 1;
        Ok(())
    }

    /// Adds at least `lacking` pages to a group. Arrays are replaced, their content moves.
    pub(super) fn grow(&mut self, group: usize, lacking: usize) -> Result<()> {
        let (before, slots, budget) = (self.groups[group].pages.total(), self.slots(), self.budget_of(group));
        let least = before + lacking;
        if least > budget {
            return Err(Error::memory(format!(
                "it has {} tokens of room for all texts, and {} are free",
                budget * PAGE,
                (budget - before.min(budget) + self.groups[group].pages.free()) * PAGE
            )));
        }
        // A budget is there to be used in full. Without one, a single sequence gets what its table has room for; several
        // share, and a long one may take what others do not.
        let usual = match slots {
            _ if self.budget < usize::MAX / PAGE => budget,
            1 => self.groups[group].most(self.capacity),
            _ => (before + before / 2).max(2 * slots),
        };
        let total = least.max(usual).min(budget);
        match self.enlarge(group, total) {
            Err(e) if e.is_memory() && total > least => self.enlarge(group, least),
            done => done,
        }
    }

    /// Replaces arrays one layer after the other, so that little is in memory twice. If memory runs out on the way, some
    /// layers have more room than their group has pages.
    fn enlarge(&mut self, group: usize, total: usize) -> Result<()> {
        self.generation += 1;
        for layer in 0..self.layer_count {
            let pages = if self.group_of[layer] == group { total } else { 1 };
            let Some(old) = self.layers.get(layer) else {
                let new = self.pair(layer, pages)?;
                self.layers.push(new);
                continue;
            };
            if old[0].dims()[0] >= pages * PAGE {
                continue;
            }
            let new = self.pair(layer, pages)?;
            for (old, new) in old.iter().zip(&new) {
                if let (Some(from), Some(to)) = (old.buffer(), new.buffer()) {
                    to.copy_from(&from, &[[0, 0, old.nbytes()]])?;
                }
            }
            self.layers[layer] = new;
        }
        self.groups[group].pages.grow(total);
        Ok(())
    }

    /// How keys and values of a layer are coded, if they are not floats, and laid out as its device reads them fastest.
    pub(crate) fn packing(&self, layer: usize) -> Option<[Packing; 2]> {
        let packing = self.kinds[layer].packing()?;
        let buffer = self.layers.get(layer).and_then(|[keys, _]| keys.buffer());
        Some(match buffer {
            Some(Buffer::Gpu(buffer)) => laid_out(packing, self.head_dim, buffer.gpu().caps()),
            _ => packing,
        })
    }

    /// The basis of a layer's heads, where its kind asks for one.
    pub(super) fn basis(&self, layer: usize) -> Option<&MLXArray> {
        self.bases.get(layer).filter(|_| self.kinds[layer].has_basis())
    }

    /// Checks, before anything is stored, that heads can be stored as `kinds` says.
    ///
    /// # Errors
    /// `is_input`: they cannot, or there are more kinds than layers.
    pub fn check(&self) -> Result<()> {
        let (said, layers) = (self.said, self.layer_count);
        if said > layers {
            return Err(Error::input(format!(
                "{said} KV cache kinds by layer, but the model has {layers} layers"
            )));
        }
        self.kinds.iter().try_for_each(|kind| kind.check(self.head_dim))
    }

    /// Which pages sequences have in a layer, `[slots * pages of a slot]`.
    ///
    /// # Panics
    /// Before the first reservation.
    pub(crate) fn table(&self, layer: usize) -> &MLXArray {
        self.group(layer).table().unwrap_or_else(|e| panic!("{e}"))
    }

    /// The place of a position in a slot: the position, and the logical row at which the slot begins.
    pub(crate) fn place(&self, slot: usize, position: usize) -> [u32; 2] {
        [position as u32, (slot * self.capacity) as u32]
    }

    /// Says that the rows of `tokens` more tokens have been written to a slot.
    pub(crate) fn advance(&mut self, slot: usize, tokens: usize) {
        self.lens[slot] += tokens;
        for group in &mut self.groups {
            group.slide(slot, self.lens[slot]);
        }
    }

    /// Forgets all but the first `len` tokens of a slot, and gives back the pages that these do not need. These are
    /// forgotten, too, if a layer with a window no longer has what is needed to go on from them.
    pub(crate) fn truncate(&mut self, slot: usize, len: usize) {
        let len = self.within(slot, len);
        self.lens[slot] = len;
        self.named[slot].truncate(len / PAGE);
        self.groups.iter_mut().for_each(|group| group.trim(slot, len));
    }

    /// `len`, or what a slot holds if that is less, if it can go on from there; otherwise 0.
    pub(crate) fn within(&self, slot: usize, len: usize) -> usize {
        let len = self.lens[slot].min(len);
        if self.groups.iter().all(|group| group.holds(slot, len)) { len } else { 0 }
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

    /// How many pages there are, of 128 tokens each, in the layers that see most.
    pub fn pages(&self) -> usize {
        self.groups.first().map_or(0, |group| group.pages.total())
    }

    /// Where it is.
    pub(super) fn device(&self) -> Device {
        self.device
    }

    /// How each layer stores keys and values.
    pub fn kinds(&self) -> &[KvKind] {
        &self.kinds
    }

    /// Bytes of all buffers.
    pub fn bytes(&self) -> usize {
        self.layers.iter().flatten().map(MLXArray::nbytes).sum()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Fills what a layer's values are stored in with their own numbers.
    pub(in super::super) fn number(cache: &KvCache) -> Vec<f32> {
        let array = &cache.layers[0][1];
        let all: Vec<f32> = (0..array.size()).map(|i| i as f32).collect();
        array.overwrite(bytemuck::cast_slice(&all)).unwrap();
        all
    }

    #[test]
    fn growing_keeps_what_is_there() {
        let mut cache = KvCache::new(&[None], [1, 3], 1, KvKind::F32, Device::CPU);
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
        let now = cache.stored(0, 1, 200).unwrap();
        assert_eq!(bytemuck::pod_collect_to_vec::<u8, f32>(&now), rows[..600]);
        cache.reserve(0, 900, 1000).unwrap();
        assert_eq!(cache.capacity(), 1024); // the context length is enough
        cache.truncate(0, 1);
        assert_eq!((cache.len(), cache.pages()), (1, 8));
    }

    /// What a slot has, as the numbers of [`number`].
    fn rows(cache: &KvCache, slot: usize) -> Vec<usize> {
        (0..cache.slot_len(slot)).map(|position| cache.groups[0].row(slot, position).unwrap()).collect()
    }

    #[test]
    fn one_long_and_several_short_sequences_fit_where_equal_slots_would_not() {
        let mut cache = KvCache::new(&[None], [1, 1], 4, KvKind::F32, Device::CPU);
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
        let mut cache = KvCache::new(&[None], [2, 64], 2, KvKind::K4V3, Device::CPU);
        cache.reserve(1, 1, 1000).unwrap();
        assert_eq!(cache.bytes() as u64, (cache.pages() * PAGE) as u64 * KvKind::K4V3.bytes_per_token(2, 64));
        cache.advance(1, 3);
        // Values: 2 heads of 6 words, a word of scales.
        let words: Vec<u32> = (0..3 * 13).collect();
        let array = cache.layers[0][1].clone();
        let mut image = vec![0u32; array.size()];
        let at = cache.groups[0].row(1, 0).unwrap() * 13;
        image[at..at + 39].copy_from_slice(&words);
        array.overwrite(bytemuck::cast_slice(&image)).unwrap();
        cache.reserve(1, 900, 1000).unwrap();
        let mut moved = vec![0u32; cache.layers[0][1].size()];
        cache.layers[0][1].buffer().unwrap().read(bytemuck::cast_slice_mut(&mut moved)).unwrap();
        assert_eq!(moved[cache.groups[0].row(1, 0).unwrap() * 13..][..39], words);
        assert!(cache.wants_bases());
    }
}
