//! The pages of layers that see equally far, and which sequence has which.

use super::pages::{Name, Pages};
use crate::array::{Device, MLXArray};
use crate::cpu::PAGE;
use crate::dtype::Dtype;
use crate::error::{Error, Result};

/// Layers with one numbering of pages: a sequence's page `i` is the same page in each of them.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) pages: Pages,
    /// The pages of each sequence, in order.
    held: Vec<Vec<u32>>,
    /// The same for kernels, `[slots * pages of a slot]`: where a sequence has no page, any.
    words: Vec<u32>,
    table: Option<MLXArray>,
    stale: bool,
}

impl Group {
    pub(super) fn new(slots: usize) -> Self {
        Self {
            pages: Pages::default(),
            held: vec![Vec::new(); slots],
            words: Vec::new(),
            table: None,
            stale: false,
        }
    }

    /// Makes a table with room for so many pages of each sequence.
    ///
    /// # Errors
    /// Not enough memory.
    pub(super) fn widen(&mut self, each: usize, device: Device) -> Result<()> {
        let slots = self.held.len();
        self.table = Some(MLXArray::mutable(&[slots * each], Dtype::U32, device)?);
        self.words.clear();
        self.words.resize(slots * each, 0);
        for (words, held) in self.words.chunks_exact_mut(each).zip(&mut self.held) {
            words[..held.len()].copy_from_slice(held);
            held.reserve(each - held.len());
        }
        self.stale = true;
        Ok(())
    }

    /// The table, `[slots * pages of a slot]`.
    pub(super) fn table(&self) -> Result<&MLXArray> {
        self.table.as_ref().ok_or_else(|| Error::input("a KV cache without room"))
    }

    /// Pages that a sequence lacks to have so many tokens.
    pub(super) fn lacks(&self, slot: usize, tokens: usize) -> usize {
        tokens.div_ceil(PAGE).saturating_sub(self.held[slot].len())
    }

    /// Takes pages for so many tokens, as many as there are; whether that was enough.
    pub(super) fn extend(&mut self, slot: usize, tokens: usize) -> bool {
        for _ in 0..self.lacks(slot, tokens) {
            let Some(page) = self.pages.take() else { return false };
            self.set(slot, page);
        }
        true
    }

    fn set(&mut self, slot: usize, page: u32) {
        let each = self.words.len() / self.held.len();
        self.words[slot * each + self.held[slot].len()] = page;
        self.held[slot].push(page);
        self.stale = true;
    }

    /// Another page in the place of a sequence's `i`th, which is given back.
    pub(super) fn replace(&mut self, slot: usize, i: usize, page: u32) {
        let each = self.words.len() / self.held.len();
        self.words[slot * each + i] = page;
        self.pages.give(std::mem::replace(&mut self.held[slot][i], page));
        self.stale = true;
    }

    /// Gives back the pages of a sequence that its first `len` tokens do not need.
    pub(super) fn trim(&mut self, slot: usize, len: usize) {
        while self.held[slot].len() > len.div_ceil(PAGE) {
            if let Some(page) = self.held[slot].pop() {
                self.pages.give(page);
            }
        }
    }

    /// Says what the `i`th page of a sequence holds.
    pub(super) fn name(&mut self, slot: usize, i: usize, name: Name) {
        if let Some(&page) = self.held[slot].get(i) {
            self.pages.name(page, name);
        }
    }

    /// Gives a sequence the page of a name, if there is one, as its next.
    pub(super) fn recall(&mut self, slot: usize, name: Name) -> bool {
        let Some(page) = self.pages.find(name) else { return false };
        self.pages.share(page);
        self.set(slot, page);
        true
    }

    /// The pages of a sequence.
    pub(super) fn held(&self, slot: usize) -> &[u32] {
        &self.held[slot]
    }

    /// Lets an empty sequence begin with the first pages of another.
    pub(super) fn share(&mut self, from: usize, to: usize, pages: usize) {
        for i in 0..pages {
            let page = self.held[from][i];
            self.pages.share(page);
            self.set(to, page);
        }
    }

    /// Tells kernels what has changed.
    ///
    /// # Errors
    /// The device failed.
    pub(super) fn flush(&mut self) -> Result<()> {
        if std::mem::take(&mut self.stale) {
            self.table()?.overwrite(bytemuck::cast_slice(&self.words))?;
        }
        Ok(())
    }

    /// The row of the cache where a token of a sequence lies.
    pub(super) fn row(&self, slot: usize, position: usize) -> usize {
        let page = self.held[slot].get(position / PAGE).copied().unwrap_or(0);
        page as usize * PAGE + position % PAGE
    }

    /// The page of a sequence that a token is in, if it has that.
    pub(super) fn page(&self, slot: usize, position: usize) -> Option<u32> {
        self.held[slot].get(position / PAGE).copied()
    }
}
