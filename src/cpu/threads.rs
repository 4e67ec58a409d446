//! Threads and their scratch memory.

use super::simd::LANES;
use super::team;
use bytemuck::{Pod, Zeroable};
use std::cell::RefCell;
use std::ops::Range;

/// Calls `body` on pieces that cover `0..n`, in parallel. Pieces start at multiples of `step` and are not
/// split below `grain`.
///
/// Each thread begins with a large piece, three quarters of its share; the rest goes in small ones to
/// whoever is free. Few pieces mean few meetings, and a thread that comes late takes fewer.
pub(super) fn parallel<F: Fn(Range<usize>) + Sync>(n: usize, step: usize, grain: usize, body: F) {
    let threads = team::threads();
    let grain = grain.max(1).next_multiple_of(step);
    if threads == 1 || n <= grain {
        if n > 0 {
            body(0..n);
        }
        return;
    }
    let large = (n * 3 / 4 / threads / step * step).max(grain);
    let small = (n / (16 * threads)).next_multiple_of(step).max(grain);
    let first = threads.min(n.div_ceil(large));
    let rest = n.saturating_sub(first * large);
    team::run(first + rest.div_ceil(small), &|i: usize| {
        let (start, len) =
            if i < first { (i * large, large) } else { (first * large + (i - first) * small, small) };
        body(start..(start + len).min(n));
    });
}

/// One cache line, so that vectors in scratch never straddle two.
#[derive(Clone, Copy, Zeroable, Pod)]
#[repr(C, align(64))]
struct Line([f32; LANES]);

thread_local! {
    /// Buffers not in use. They are taken out rather than borrowed: a thread that waits for others may be
    /// handed a second piece of work, which then finds the next buffer.
    static FREE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Lends `len` floats of any content to `body`. Allocates only until every thread has seen its largest need.
pub(super) fn scratch<R>(len: usize, body: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut lines = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
    let need = len.div_ceil(LANES);
    if lines.len() < need {
        lines.resize(need, Line::zeroed());
    }
    let out = body(&mut bytemuck::cast_slice_mut(&mut lines)[..len]);
    FREE.with_borrow_mut(|free| free.push(lines));
    out
}

/// A pointer into an output that pieces of work write disjoint parts of.
#[derive(Clone, Copy)]
pub(super) struct Out(*mut f32, #[cfg(debug_assertions)] usize);

// SAFETY: whoever writes through it promises to stay within its own part.
unsafe impl Send for Out {}
// SAFETY: as above.
unsafe impl Sync for Out {}

impl Out {
    pub(super) fn new(y: &mut [f32]) -> Self {
        Self(
            y.as_mut_ptr(),
            #[cfg(debug_assertions)]
            y.len(),
        )
    }

    /// # Safety
    /// The elements are inside the output, its borrow is alive, and nobody else touches them meanwhile.
    #[inline(always)]
    pub(super) unsafe fn slice<'a>(self, at: usize, len: usize) -> &'a mut [f32] {
        #[cfg(debug_assertions)]
        assert!(at + len <= self.1, "{at} + {len} outside {}", self.1);
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(at), len) }
    }
}
