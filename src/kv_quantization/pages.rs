//! Who has which page of a cache.

/// Pages of a cache by number: how many sequences have each, and which are free.
#[derive(Debug, Default)]
pub(super) struct Pages {
    owners: Vec<u32>,
    /// The next to be handed out is the last.
    free: Vec<u32>,
}

impl Pages {
    /// Pages that there are.
    pub(super) fn total(&self) -> usize {
        self.owners.len()
    }

    /// Pages that can be had.
    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    /// Says that there are so many now.
    pub(super) fn grow(&mut self, total: usize) {
        let before = self.total();
        self.owners.resize(total.max(before), 0);
        let new = (before..self.total()).rev().map(|page| page as u32);
        self.free.splice(0..0, new);
        // Giving back must not allocate.
        self.free.reserve(self.total() - self.free.len());
    }

    /// A page for one sequence.
    pub(super) fn take(&mut self) -> Option<u32> {
        let page = self.free.pop()?;
        self.owners[page as usize] = 1;
        Some(page)
    }

    /// One more sequence has this page.
    pub(super) fn share(&mut self, page: u32) {
        self.owners[page as usize] += 1;
    }

    /// A sequence gives a page back.
    pub(super) fn give(&mut self, page: u32) {
        let owners = &mut self.owners[page as usize];
        *owners = owners.saturating_sub(1);
        if *owners == 0 {
            self.free.push(page);
        }
    }

    /// Whether another sequence has this page, too.
    pub(super) fn is_shared(&self, page: u32) -> bool {
        self.owners[page as usize] > 1
    }
}
