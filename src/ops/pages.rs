//! Caches of pages: which row of the cache a row of a sequence is.

use crate::array::MLXArray;
use crate::cpu::PAGE;
use crate::op::Fill;
use crate::wgsl::{File, wgsl};

pub(super) static PAGES: File = wgsl!("parts/pages.wgsl");

/// Rows of the cache that all logical rows of a table are, `[pages * 128]`.
pub(super) fn all_rows(table: &MLXArray) -> MLXArray {
    let pages = table.size();
    let first = table.reshape(&[pages, 1]).shl(&MLXArray::scalar_u32(PAGE.trailing_zeros()));
    (&first + &MLXArray::iota(PAGE).reshape(&[1, PAGE])).reshape(&[pages * PAGE])
}

/// The rows of the cache at `places` `[t, 2]`, `[t]`; one past the end where the table has none.
pub(super) fn rows_at(places: &MLXArray, table: &MLXArray) -> MLXArray {
    let t = places.dims()[0];
    let bits = MLXArray::scalar_u32(PAGE.trailing_zeros());
    let logical = (&places.slice(1, 0, 1) + &places.slice(1, 1, 1)).reshape(&[t]);
    let page = logical.shr(&bits);
    let row = &table.take(&page, 0).shl(&bits) + &(&logical - &page.shl(&bits));
    let known = page.less(&MLXArray::scalar_u32(table.size() as u32));
    row.where_(&known, &MLXArray::scalar_u32(u32::MAX))
}

/// A cache for tests and benchmarks in which the pages of sequences are neither in order nor side by side.
pub(super) struct Paged {
    pub(super) places: Fill,
    pub(super) table: Fill,
    /// Rows of the cache.
    pub(super) rows: usize,
    /// Sequences.
    pub(super) slots: usize,
}

/// Lays out sequences in which these are the positions of tokens, and that are told apart by a number each.
pub(super) fn paged(tokens: &[[u32; 2]], rows: usize) -> Paged {
    let mut sequences: Vec<u32> = tokens.iter().map(|token| token[1]).collect();
    sequences.sort_unstable();
    sequences.dedup();
    let slots = sequences.len();
    let longest = tokens.iter().map(|token| token[0] as usize + 1).max().unwrap_or(1);
    let each = longest.max(rows / slots).div_ceil(PAGE);
    let place = |&[position, sequence]: &[u32; 2]| {
        let slot = sequences.iter().position(|known| *known == sequence).unwrap_or(0);
        [position, (slot * each * PAGE) as u32]
    };
    let places = tokens.iter().flat_map(place).collect();
    let pages = slots * each;
    Paged {
        places: Fill::U32(vec![tokens.len(), 2], places),
        table: Fill::U32(vec![pages], (1..=pages as u32).rev().collect()),
        rows: (pages + 1) * PAGE,
        slots,
    }
}
