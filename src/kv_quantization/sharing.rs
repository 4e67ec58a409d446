//! What sequences have in common: pages that are shared, copied where one goes on by itself, and found again by what
//! they hold.

use super::cache::KvCache;
use super::pages::Name;
use crate::cpu::PAGE;
use crate::error::Result;
use crate::memory::Buffer;

impl KvCache {
    /// Gives a slot a page of its own where it is to go on within one that others have, too, or may find.
    pub(super) fn own(&mut self, group: usize, slot: usize) -> Result<()> {
        let (len, of) = (self.lens[slot], &mut self.groups[group]);
        let Some(page) = of.page(slot, len) else { return Ok(()) };
        if !of.pages.is_shared(page) {
            of.pages.forget(page);
            return Ok(());
        }
        if of.pages.free() == 0 {
            self.grow(group, 1)?;
        }
        let Some(own) = self.groups[group].pages.take() else { return Ok(()) };
        self.move_rows(group, page, own, len % PAGE)?;
        self.groups[group].replace(slot, len / PAGE, own);
        Ok(())
    }

    /// Copies the first rows of a page to another.
    fn move_rows(&self, group: usize, from: u32, to: u32, rows: usize) -> Result<()> {
        let of = |layer: usize| self.layers[layer].iter().map(move |matrix| (matrix, self.tile_rows(layer)));
        let moves = self.layers_of(group).flat_map(of).filter_map(|(matrix, tile)| {
            let page = matrix.nbytes() / matrix.dims()[0] * PAGE;
            let bytes = (page / PAGE * rows.next_multiple_of(tile)).next_multiple_of(4);
            Some((matrix.buffer()?, from as usize * page, to as usize * page, bytes))
        });
        Buffer::copy_within(&moves.collect::<Vec<_>>())
    }

    /// Lets a slot begin with the first `tokens` tokens of another: it shares their whole pages, and gets a copy of the
    /// rest, made on the device, if there are pages for it. What it had is forgotten. Returns how many tokens it has then.
    ///
    /// # Errors
    /// A device that does not answer.
    pub(crate) fn share(&mut self, from: usize, to: usize, tokens: usize) -> Result<usize> {
        if from == to {
            return Ok(self.lens[to]);
        }
        let tokens = self.within(from, tokens);
        self.truncate(to, 0);
        let whole = tokens / PAGE * PAGE;
        self.groups.iter_mut().for_each(|group| group.share(from, to, whole / PAGE));
        self.lens[to] = whole;
        let names = std::mem::take(&mut self.named[from]);
        self.named[to].extend(names.iter().take(whole / PAGE));
        self.named[from] = names;
        if tokens > whole {
            match self.reserve(to, tokens, self.capacity) {
                Ok(()) => {
                    for (i, group) in self.groups.iter().enumerate() {
                        if let (Some(page), Some(own)) = (group.page(from, whole), group.page(to, whole)) {
                            self.move_rows(i, page, own, tokens - whole)?;
                        }
                    }
                    self.lens[to] = tokens;
                }
                // The whole pages may be of use yet.
                Err(e) if e.is_memory() => self.truncate(to, whole),
                Err(e) => return Err(e),
            }
        }
        self.groups.iter_mut().try_for_each(|group| group.flush())?;
        Ok(self.lens[to])
    }

    /// Names the full pages of a slot, which holds the first of these tokens, so that others find them.
    pub(crate) fn remember(&mut self, slot: usize, tokens: &[u32]) {
        let full = self.lens[slot].min(tokens.len()) / PAGE;
        for i in self.named[slot].len()..full {
            let name = self.names.next(self.named[slot].last().copied(), &tokens[i * PAGE..][..PAGE]);
            self.named[slot].push(name);
            self.groups.iter_mut().for_each(|group| group.name(slot, i, name));
        }
    }

    /// Names of the first pages of these tokens with which a sequence can begin.
    fn known_names(&self, tokens: &[u32]) -> Vec<Name> {
        let mut names: Vec<Name> = Vec::with_capacity(tokens.len() / PAGE);
        for tokens in tokens.chunks_exact(PAGE) {
            names.push(self.names.next(names.last().copied(), tokens));
        }
        // What one group has to leave out changes what others need.
        loop {
            let most = self.groups.iter().map(|group| group.known(&names)).min().unwrap_or(0);
            if most == names.len() {
                return names;
            }
            names.truncate(most);
        }
    }

    /// For how many of these tokens, from the first on, pages are known.
    pub(crate) fn known(&self, tokens: &[u32]) -> usize {
        self.known_names(tokens).len() * PAGE
    }

    /// Lets a slot begin with the pages that are known for these tokens, `most` being the context length; what it had is
    /// forgotten. How many tokens it has then.
    ///
    /// # Errors
    /// Not enough memory for a longer table; the device failed.
    pub(crate) fn recall(&mut self, slot: usize, tokens: &[u32], most: usize) -> Result<usize> {
        self.truncate(slot, 0);
        self.widen(tokens.len(), most)?;
        let names = self.known_names(tokens);
        for group in &mut self.groups {
            group.recall(slot, &names);
            group.flush()?;
        }
        self.lens[slot] = names.len() * PAGE;
        self.named[slot] = names;
        Ok(self.lens[slot])
    }

    /// The most pages that a text of `tokens` tokens has in the layers that see most.
    pub(crate) fn needs(&self, tokens: usize) -> usize {
        self.groups.first().map_or(0, |group| group.most(tokens))
    }

    /// Pages that can be had without taking any from a sequence, in the layers that see most.
    pub(crate) fn spare(&self) -> usize {
        let free = self.groups.first().map_or(0, |group| group.pages.free());
        free + self.budget_of(0).saturating_sub(self.pages())
    }

    /// Pages that some slots have in the layers that see most, each counted once.
    pub(crate) fn pages_of(&self, slots: impl Iterator<Item = usize>) -> usize {
        let Some(group) = self.groups.first() else { return 0 };
        let mut pages: Vec<u32> = slots.flat_map(|slot| group.held(slot)).collect();
        pages.sort_unstable();
        pages.dedup();
        pages.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::Device;
    use crate::kv_quantization::KvKind;
    use crate::kv_quantization::cache::tests::number;

    /// What a slot has, as the numbers of [`number`].
    fn rows(cache: &KvCache, slot: usize) -> Vec<usize> {
        (0..cache.slot_len(slot)).map(|position| cache.groups[0].row(slot, position).unwrap()).collect()
    }

    #[test]
    fn a_prefix_is_shared_by_pages_and_its_end_is_copied() {
        for device in [Device::CPU, Device::GPU] {
            let mut cache = KvCache::new(&[None; 2], [1, 4], 3, KvKind::F32, device);
            cache.reserve(0, 300, 1000).unwrap();
            cache.advance(0, 300);
            number(&cache);
            assert_eq!(cache.share(0, 2, 290).unwrap(), 290);
            let (from, to) = (rows(&cache, 0), rows(&cache, 2));
            assert_eq!((&from[..256], to.len()), (&to[..256], 290));
            assert!(to[256..].iter().all(|row| !from.contains(row)));
            let after = cache.layers[0][1].data();
            let of = |rows: &[usize]| rows.iter().map(|row| after[4 * row]).collect::<Vec<_>>();
            assert_eq!(of(&from[..290]), of(&to));
            // Who goes on within a shared page gets one of its own.
            cache.truncate(0, 130);
            cache.reserve(0, 131, 1000).unwrap();
            let now = rows(&cache, 0);
            assert_eq!((&now[..128], rows(&cache, 2)), (&from[..128], to.clone()));
            assert!(now[128..].iter().all(|row| !to.contains(row)));
            let after = cache.layers[0][1].data();
            assert_eq!((after[4 * now[128]], after[4 * now[129]]), (after[4 * to[128]], after[4 * to[129]]));
        }
    }

    #[test]
    fn a_beginning_is_found_again_until_its_pages_are_needed() {
        let mut cache = KvCache::new(&[None], [1, 1], 3, KvKind::F32, Device::CPU);
        cache.set_budget(6 * PAGE);
        let text: Vec<u32> = (0..3 * PAGE as u32 + 7).collect();
        cache.reserve(0, text.len(), 4096).unwrap();
        cache.advance(0, text.len());
        cache.remember(0, &text);
        let first = rows(&cache, 0);
        assert_eq!((cache.known(&text), cache.known(&text[1..]), cache.spare()), (3 * PAGE, 0, 2));
        // Shared while the first has it, and when that has gone.
        assert_eq!(cache.recall(1, &text[..2 * PAGE + 9], 4096).unwrap(), 2 * PAGE);
        assert_eq!((rows(&cache, 1), cache.pages_of(0..2)), (first[..2 * PAGE].to_vec(), 4));
        cache.truncate(0, 0);
        cache.truncate(1, 0);
        assert_eq!((cache.pages_of(0..3), cache.spare(), cache.known(&text)), (0, 6, 3 * PAGE));
        assert_eq!(cache.recall(2, &text, 4096).unwrap(), 3 * PAGE);
        assert_eq!(rows(&cache, 2), first[..3 * PAGE]);
        // Who writes into a page of its own takes it from those that can be found.
        cache.truncate(2, 2 * PAGE + 3);
        cache.reserve(2, 2 * PAGE + 4, 4096).unwrap();
        assert_eq!(cache.known(&text), 2 * PAGE);
        cache.truncate(2, 0);
        // All are needed: the end of the text went back first and goes first.
        cache.reserve(0, 5 * PAGE, 4096).unwrap();
        assert_eq!(cache.known(&text), PAGE);
        cache.reserve(0, 6 * PAGE, 4096).unwrap();
        assert_eq!((cache.known(&text), cache.spare()), (0, 0));
    }

    /// What stands in each layer where a token lies: all tokens up to it, in 24 bits.
    fn mark(tokens: &[u32]) -> f32 {
        let hash = tokens.iter().fold(7u32, |hash, token| (hash ^ token).wrapping_mul(0x9e37_79b1));
        (hash >> 8) as f32
    }

    /// Random sequences that grow, are cut, shared, named and found again, in layers that see everything, 100 and 300
    /// tokens: each finds what it wrote, and no page is lost.
    #[test]
    fn every_sequence_finds_its_own() {
        const SLOTS: usize = 4;
        let windows = [None, Some(100), Some(300), None];
        let mut cache = KvCache::new(&windows, [1, 1], SLOTS, KvKind::F32, Device::CPU);
        cache.set_chunk(256);
        cache.set_budget(7 * PAGE);
        let mut texts = vec![Vec::<u32>::new(); SLOTS];
        let mut state = 1u32;
        let mut random = move |n: usize| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 10) as usize % n
        };
        let (mut full, mut found) = (0, 0);
        for _ in 0..4000 {
            let (slot, other) = (random(SLOTS), random(SLOTS));
            let len = texts[slot].len();
            match random(8) {
                0..=3 => {
                    let n = [1, 1, random(20), 1 + random(256)][random(4)];
                    match cache.reserve(slot, len + n, 2048) {
                        Ok(()) => {
                            // Few different texts, so that beginnings meet again.
                            let fork = random(3) as u32;
                            texts[slot].extend((len..len + n).map(|at| at as u32 + 1000 * fork));
                            for layer in 0..windows.len() {
                                let array = &cache.layers[layer][0];
                                let mut all = array.data();
                                for at in len..len + n {
                                    let row = cache.group(layer).row(slot, at).unwrap();
                                    all[row] = mark(&texts[slot][..=at]);
                                }
                                array.overwrite(bytemuck::cast_slice(&all)).unwrap();
                            }
                            cache.advance(slot, n);
                        }
                        Err(e) => {
                            assert!(e.is_memory(), "{e}");
                            full += 1;
                            cache.truncate(other, 0);
                            texts[other].clear();
                        }
                    }
                }
                4 => {
                    let keep = if random(3) == 0 { random(len + 1) } else { len - len.min(random(4)) };
                    cache.truncate(slot, keep);
                    let kept = cache.slot_len(slot);
                    assert!(kept == keep || kept == 0);
                    texts[slot].truncate(kept);
                }
                5 if slot != other => {
                    let n = cache.share(slot, other, random(len + 1)).unwrap();
                    texts[other] = texts[slot][..n].to_vec();
                }
                6 => cache.remember(slot, &texts[slot]),
                7 => {
                    let text = texts[other].clone();
                    let n = cache.recall(slot, &text, 2048).unwrap();
                    found += usize::from(n > 0);
                    if slot != other {
                        texts[slot] = text[..n].to_vec();
                    } else {
                        texts[slot].truncate(n);
                    }
                }
                _ => {}
            }
            for (slot, text) in texts.iter().enumerate() {
                assert_eq!(cache.slot_len(slot), text.len());
                for (layer, window) in windows.iter().enumerate() {
                    let all = cache.layers.get(layer).map(|pair| pair[0].data()).unwrap_or_default();
                    let first = window.map_or(0, |window| (text.len() + 1).saturating_sub(window));
                    for at in first..text.len() {
                        let row = cache.group(layer).row(slot, at).unwrap();
                        assert_eq!(all[row], mark(&text[..=at]), "layer {layer}, slot {slot}, token {at}");
                    }
                }
            }
            for group in &cache.groups {
                let mut held: Vec<u32> = (0..SLOTS).flat_map(|slot| group.held(slot)).collect();
                held.sort_unstable();
                held.dedup();
                assert_eq!(held.len() + group.pages.free(), group.pages.total());
            }
        }
        assert!(full > 10 && found > 10, "{full} times full, {found} times found");
    }
}
