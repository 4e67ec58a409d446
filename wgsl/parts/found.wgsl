// What attend and attend_packed have of keys: a workgroup's share. LANES neighbours of its WG invocations, a part, cover a
// head, 8 values each.
// Needs first_key, end_key, window_start, begin_of, STEP (key_range); first_new (first_new); table, PAGE (pages).

// Invocations that cover a head: its values / 8, rounded up to a power of two, at least 8.
override LANES: u32 = 16u;
// Query heads of a workgroup, 1 to 4.
override HEADS: u32 = 4u;
// Tokens of the step.
override TOKENS: u32 = 1u;
override WG: u32 = 128u;
// By how much a score may exceed what weights are relative to before sums are rescaled.
const SLACK: f32 = 8.0;

// 0, which the kernel sets, which no compiler can know, and which may differ between lanes for all it knows. NVIDIA's masks bits and sets others in
// two instructions if both are constants, else in one; what is alike in all lanes it copies each time.
var<private> nothing: u32;

// The score of a key that is not seen.
const UNSEEN: f32 = -3.0e38;
// What weights are relative to before there are any: less, so that the way of a new greatest score is tried, too.
const LOWEST: f32 = -3.3e38;

// A workgroup's share of what the token at place `here` sees: positions from low to high, which are in the cache
// before `stored`, and if `fresh` the keys of this step; `start` is the first position that the token sees, `seen` the
// first in the share, `last` the last that may be read.
struct Range { here: vec2<u32>, low: u32, high: u32, stored: u32, last: u32, start: u32, seen: u32, fresh: bool }

fn range_of(t: u32, split: u32, splits: u32) -> Range {
    let here = places[t];
    let begin = first_key(here);
    let end = end_key(here);
    let keys = end - begin;
    let before = begin_of(split, splits, keys);
    let low = min(begin + before, end);
    let high = min(begin + begin_of(split + 1u, splits, keys), end);
    let stored = min(high, first_new(here));
    // The first split that nothing is left for.
    let is_next = before >= keys && (split == 0u || begin_of(split - 1u, splits, keys) < keys);
    let fresh = here.x < end && (splits == 1u || is_next);
    let start = window_start(here);
    return Range(here, low, high, stored, max(stored, 1u) - 1u, start, max(start, low), fresh);
}

fn is_empty(r: Range) -> bool {
    return r.low >= r.high && !r.fresh;
}

// The number of the page of position j, or of the last that may be read. As fetched: arithmetic would wait for it, and for
// all else that is on its way.
fn page_at(r: Range, j: u32) -> u32 {
    return table[(r.here.y + min(j, r.last)) / PAGE];
}

// The page that a part goes on with after that of position j.
fn page_after(r: Range, j: u32) -> u32 {
    return page_at(r, select((j / PAGE + 1u) * PAGE, j + STEP, STEP > PAGE));
}
