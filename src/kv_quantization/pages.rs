//! How many sequences have each page of a cache, and what those pages hold that none has any more.
//!
//! A full page has a name: a hash of its tokens and of the name of the page before it, so that equal names mean equal
//! beginnings of texts. A page that is given back keeps its content until it is needed, and the one that was given
//! back first is the first to go; until then a sequence that begins alike finds it by its name.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

/// Stands for what a page and all before it hold: two hashes with random keys, so that no client can make them collide.
pub(super) type Name = u128;

/// Makes names.
#[derive(Debug, Default)]
pub(super) struct Names([RandomState; 2]);

impl Names {
    /// The name of a page of these tokens after the page of that name.
    pub(super) fn next(&self, before: Option<Name>, tokens: &[u32]) -> Name {
        let [high, low] = [0, 1].map(|i| u128::from(self.0[i].hash_one((before, tokens))));
        high << 64 | low
    }
}

/// Pages of a cache by number.
#[derive(Debug, Default)]
pub(super) struct Pages {
    /// How many sequences have each.
    owners: Vec<u32>,
    names: Vec<Option<Name>>,
    known: HashMap<Name, u32>,
    /// When each was given back.
    times: Vec<u64>,
    time: u64,
    /// Pages without owner or name. The last is the next to be handed out.
    free: Vec<u32>,
    /// How many pages have a name but no owner.
    kept: usize,
}

impl Pages {
    /// How many pages there are.
    pub(super) fn total(&self) -> usize {
        self.owners.len()
    }

    /// How many pages can be taken.
    pub(super) fn free(&self) -> usize {
        self.free.len() + self.kept
    }

    /// Adds pages until there are `total`.
    pub(super) fn grow(&mut self, total: usize) {
        let before = self.total();
        let total = total.max(before);
        self.owners.resize(total, 0);
        self.names.resize(total, None);
        self.times.resize(total, 0);
        self.free.splice(0..0, (before..total).rev().map(|page| page as u32));
        // Giving back must not allocate.
        self.free.reserve(total - self.free.len());
    }

    /// A page for one sequence.
    pub(super) fn take(&mut self) -> Option<u32> {
        let page = match self.free.pop() {
            Some(page) => page,
            None => {
                let kept = (0..self.total()).filter(|&page| self.owners[page] == 0);
                let page = kept.min_by_key(|&page| self.times[page])? as u32;
                self.forget(page);
                self.free.pop()?
            }
        };
        self.owners[page as usize] = 1;
        Some(page)
    }

    /// Gives a page one more owner.
    pub(super) fn share(&mut self, page: u32) {
        let owners = &mut self.owners[page as usize];
        self.kept -= usize::from(*owners == 0);
        *owners += 1;
    }

    /// Takes an owner from a page.
    pub(super) fn give(&mut self, page: u32) {
        let at = page as usize;
        self.owners[at] = self.owners[at].saturating_sub(1);
        if self.owners[at] > 0 {
            return;
        }
        if self.names[at].is_some() {
            self.time += 1;
            self.times[at] = self.time;
            self.kept += 1;
        } else {
            self.free.push(page);
        }
    }

    /// Whether another sequence has this page, too.
    pub(super) fn is_shared(&self, page: u32) -> bool {
        self.owners[page as usize] > 1
    }

    /// Names what a sequence's page holds, now that it is full; of several pages of one name the first is found.
    pub(super) fn name(&mut self, page: u32, name: Name) {
        if self.names[page as usize].is_none() && !self.known.contains_key(&name) {
            self.names[page as usize] = Some(name);
            self.known.insert(name, page);
        }
    }

    /// The page of a name.
    pub(super) fn find(&self, name: Name) -> Option<u32> {
        self.known.get(&name).copied()
    }

    /// Forgets a page's name, because it will hold something else.
    pub(super) fn forget(&mut self, page: u32) {
        let Some(name) = self.names[page as usize].take() else { return };
        self.known.remove(&name);
        if self.owners[page as usize] == 0 {
            self.kept -= 1;
            self.free.push(page);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_names_are_equal_beginnings() {
        let names = Names::default();
        let first = names.next(None, &[1, 2]);
        assert_eq!(first, names.next(None, &[1, 2]));
        let all = [
            first,
            names.next(None, &[2, 1]),
            names.next(Some(first), &[1, 2]),
            names.next(Some(0), &[1, 2]),
            names.next(None, &[1, 2, 0]),
        ];
        assert!((0..all.len()).all(|i| !all[..i].contains(&all[i])));
    }

    #[test]
    fn what_was_given_back_first_goes_first() {
        let mut pages = Pages::default();
        pages.grow(3);
        let taken: Vec<u32> = (0..3).map(|_| pages.take().unwrap()).collect();
        assert_eq!((&taken[..], pages.take(), pages.free()), (&[0, 1, 2][..], None, 0));
        pages.name(0, 10);
        pages.name(1, 11);
        pages.name(2, 11); // found already
        pages.give(1);
        pages.give(0);
        assert_eq!((pages.free(), pages.find(10), pages.find(11)), (2, Some(0), Some(1)));
        // Found again, by two; then the other one has to go.
        pages.share(1);
        pages.share(1);
        assert!(pages.is_shared(1));
        assert_eq!((pages.take(), pages.find(10), pages.free()), (Some(0), None, 0));
        pages.give(1);
        assert_eq!((pages.free(), pages.is_shared(1)), (0, false));
        pages.give(1);
        pages.give(2); // has no name
        assert_eq!((pages.take(), pages.take(), pages.take()), (Some(2), Some(1), None));
    }

    /// Random takes, shares and returns against a plain count.
    #[test]
    fn no_page_is_lost_or_had_twice() {
        let mut pages = Pages::default();
        pages.grow(20);
        let (mut held, mut state): (Vec<u32>, u32) = (Vec::new(), 1);
        let mut random = move |n: usize| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as usize % n
        };
        for step in 0..20_000u128 {
            match random(5) {
                0 | 1 => match pages.take() {
                    Some(page) => {
                        assert!(!held.contains(&page));
                        held.push(page);
                    }
                    None => assert_eq!(pages.free(), 0),
                },
                2 if !held.is_empty() => pages.give(held.swap_remove(random(held.len()))),
                3 if !held.is_empty() => pages.name(held[random(held.len())], step / 50),
                4 => {
                    if let Some(page) = pages.find(step / 50) {
                        pages.share(page);
                        held.push(page);
                    }
                }
                _ => {}
            }
            let mut distinct = held.clone();
            distinct.sort_unstable();
            distinct.dedup();
            assert_eq!(pages.free() + distinct.len(), 20);
        }
    }
}
