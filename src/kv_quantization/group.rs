//! The pages of layers that see equally far, and which sequence has which.

use super::pages::{Name, Pages};
use crate::array::{Device, MLXArray};
use crate::cpu::PAGE;
use crate::dtype::Dtype;
use crate::error::{Error, Result};

/// Tokens behind its window that a sequence keeps, to take back what ran ahead.
const SLACK: usize = 64;

/// In the place of a page that has fallen out of the window.
const GONE: u32 = u32::MAX;

/// The most pages that a sequence has in a layer with a window, when it goes through the model in chunks.
pub(crate) fn window_pages(window: usize, chunk: usize) -> usize {
    window.saturating_add(SLACK).saturating_add(chunk).div_ceil(PAGE) + 1
}

/// Layers with one numbering of pages: a sequence's page `i` is the same page in each of them.
#[derive(Debug)]
pub(super) struct Group {
    /// Tokens that they see; all if none.
    window: Option<usize>,
    /// Tokens that are put through at once.
    pub(super) chunk: usize,
    pub(super) pages: Pages,
    /// The pages of each sequence, in order.
    held: Vec<Vec<u32>>,
    /// How many of them, at the beginning, have gone.
    gone: Vec<usize>,
    /// The same for kernels, `[slots * pages of a slot]`: any page where a sequence has none.
    words: Vec<u32>,
    table: Option<MLXArray>,
    stale: bool,
}

impl Group {
    pub(super) fn new(slots: usize, window: Option<usize>) -> Self {
        Self {
            window,
            chunk: usize::MAX,
            pages: Pages::default(),
            held: vec![Vec::new(); slots],
            gone: vec![0; slots],
            words: Vec::new(),
            table: None,
            stale: false,
        }
    }

    pub(super) fn window(&self) -> Option<usize> {
        self.window
    }

    /// The most pages that a sequence of `tokens` tokens has.
    pub(super) fn most(&self, tokens: usize) -> usize {
        let all = tokens.div_ceil(PAGE);
        self.window.map_or(all, |window| all.min(window_pages(window, self.chunk)))
    }

    /// Makes a table with room for `each` pages of each sequence.
    ///
    /// # Errors
    /// Not enough memory.
    pub(super) fn widen(&mut self, each: usize, device: Device) -> Result<()> {
        let slots = self.held.len();
        self.table = Some(MLXArray::mutable(&[slots * each], Dtype::U32, device)?);
        self.words.clear();
        self.words.resize(slots * each, 0);
        for (words, held) in self.words.chunks_exact_mut(each).zip(&mut self.held) {
            for (word, page) in words.iter_mut().zip(&*held).filter(|(_, page)| **page != GONE) {
                *word = *page;
            }
            held.reserve(each - held.len());
        }
        self.stale = true;
        Ok(())
    }

    /// The table, `[slots * pages of a slot]`.
    pub(super) fn table(&self) -> Result<&MLXArray> {
        self.table.as_ref().ok_or_else(|| Error::input("a KV cache in which no room was reserved"))
    }

    /// How far a sequence of `len` tokens may be extended now, on its way to `tokens`: layers with a window make room
    /// for a chunk at a time.
    fn reach(&self, len: usize, tokens: usize) -> usize {
        if self.window.is_some() { tokens.min(len.saturating_add(self.chunk)) } else { tokens }
    }

    /// Pages that a sequence of `len` tokens lacks on its way to `tokens`.
    pub(super) fn lacks(&self, slot: usize, len: usize, tokens: usize) -> usize {
        self.reach(len, tokens).div_ceil(PAGE).saturating_sub(self.held[slot].len())
    }

    /// Takes what it lacks, as much as there is.
    pub(super) fn extend(&mut self, slot: usize, len: usize, tokens: usize) {
        for _ in 0..self.lacks(slot, len, tokens) {
            let Some(page) = self.pages.take() else { return };
            self.push(slot, page);
        }
    }

    fn push(&mut self, slot: usize, page: u32) {
        let each = self.words.len() / self.held.len();
        if page != GONE {
            self.words[slot * each + self.held[slot].len()] = page;
            self.stale = true;
        }
        self.held[slot].push(page);
    }

    /// The first page that a sequence of `len` tokens needs to go on.
    fn first(&self, len: usize, slack: usize) -> usize {
        self.window.map_or(0, |window| (len + 1).saturating_sub(window.saturating_add(slack)) / PAGE)
    }

    /// Gives back the pages that have fallen out of the window of a sequence of `len` tokens.
    pub(super) fn slide(&mut self, slot: usize, len: usize) {
        let first = self.first(len, SLACK).min(self.held[slot].len());
        for i in self.gone[slot]..first {
            let page = std::mem::replace(&mut self.held[slot][i], GONE);
            self.pages.give(page);
        }
        self.gone[slot] = self.gone[slot].max(first);
    }

    /// Prepares an empty sequence for `len` tokens at once, without the pages that it would have given back by then.
    pub(super) fn skip(&mut self, slot: usize, len: usize) {
        for _ in 0..self.first(len, SLACK) {
            self.push(slot, GONE);
        }
        self.gone[slot] = self.held[slot].len();
    }

    /// Whether a sequence can go on after its first `len` tokens.
    pub(super) fn holds(&self, slot: usize, len: usize) -> bool {
        self.gone[slot] <= self.first(len, 0)
    }

    /// Puts another page in the place of a sequence's `i`th, which is given back.
    pub(super) fn replace(&mut self, slot: usize, i: usize, page: u32) {
        let each = self.words.len() / self.held.len();
        self.words[slot * each + i] = page;
        self.pages.give(std::mem::replace(&mut self.held[slot][i], page));
        self.stale = true;
    }

    /// Gives back the pages of a sequence that its first `len` tokens do not need, the last first.
    pub(super) fn trim(&mut self, slot: usize, len: usize) {
        while self.held[slot].len() > len.div_ceil(PAGE) {
            if let Some(page) = self.held[slot].pop().filter(|page| *page != GONE) {
                self.pages.give(page);
            }
        }
        self.gone[slot] = self.gone[slot].min(self.held[slot].len());
    }

    /// Names the content of the `i`th page of a sequence.
    pub(super) fn name(&mut self, slot: usize, i: usize, name: Name) {
        if let Some(&page) = self.held[slot].get(i).filter(|page| **page != GONE) {
            self.pages.name(page, name);
        }
    }

    /// With how many of these pages, from the first on, a sequence can begin.
    pub(super) fn known(&self, names: &[Name]) -> usize {
        let is_known = |name: &&Name| self.pages.find(**name).is_some();
        if self.window.is_none() {
            return names.iter().take_while(is_known).count();
        }
        let whole = |n: &usize| names[self.first(n * PAGE, 0)..*n].iter().all(|name| is_known(&name));
        (0..=names.len()).rev().find(whole).unwrap_or(0)
    }

    /// Gives an empty sequence the pages of these names, those that it needs.
    pub(super) fn recall(&mut self, slot: usize, names: &[Name]) {
        let first = self.first(names.len() * PAGE, 0);
        for (i, name) in names.iter().enumerate() {
            let page = self.pages.find(*name).filter(|_| i >= first);
            if let Some(page) = page {
                self.pages.share(page);
            }
            self.push(slot, page.unwrap_or(GONE));
        }
        self.gone[slot] = first;
    }

    /// The pages of a sequence.
    pub(super) fn held(&self, slot: usize) -> impl Iterator<Item = u32> + '_ {
        self.held[slot].iter().copied().filter(|page| *page != GONE)
    }

    /// Lets an empty sequence begin with the first pages of another.
    pub(super) fn share(&mut self, from: usize, to: usize, pages: usize) {
        for i in 0..pages {
            let page = self.held[from][i];
            if page != GONE {
                self.pages.share(page);
            }
            self.push(to, page);
        }
        self.gone[to] = self.gone[from].min(pages);
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

    /// The row of the cache where a token of a sequence lies, if it has not gone.
    pub(super) fn row(&self, slot: usize, position: usize) -> Option<usize> {
        self.page(slot, position).map(|page| page as usize * PAGE + position % PAGE)
    }

    /// The page of a sequence that a token is in, if the sequence still has it.
    pub(super) fn page(&self, slot: usize, position: usize) -> Option<u32> {
        self.held[slot].get(position / PAGE).copied().filter(|page| *page != GONE)
    }
}
