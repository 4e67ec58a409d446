//! Where rows of sequences lie in a cache of pages.
//!
//! Sequences count rows as if each had pages of its own, one sequence's after another's: a logical row. `table[i]` is
//! the page of the cache that logical page `i` is in. So a sequence grows without being moved, and several may
//! begin with the same pages.

/// Rows of a page.
pub(crate) const PAGE: usize = 128;

/// Where a token is: its position in its sequence, and the logical row at which that begins, the first of a page.
pub(crate) type Place = [u32; 2];

/// The row of the cache that a logical row is; none past the table or the cache.
pub(crate) fn row_at(table: &[u32], logical: usize, capacity: usize) -> Option<usize> {
    let row = *table.get(logical / PAGE)? as usize * PAGE + logical % PAGE;
    (row < capacity).then_some(row)
}
