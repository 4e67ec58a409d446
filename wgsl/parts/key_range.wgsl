// The positions first_key .. end_key among which those are that the token at place `here` sees, and how splits share
// them. Of several splits that have something the last has the keys of this step alone: to make them ready takes a
// while. Needs params.window, table and PAGE (pages).
// Room and the number of splits grow with the cache: as constants they would make kernels anew.

// Keys that are taken at once: a split begins at a multiple of them, which divides a page, and has at least so many.
override STEP: u32 = 32u;

fn end_key(here: vec2<u32>) -> u32 {
    let rows = arrayLength(&table) * PAGE;
    return min(here.x + 1u, rows - min(here.y, rows));
}

// The first that it sees.
fn window_start(here: vec2<u32>) -> u32 {
    let outside = params.window > 0u && here.x + 1u > params.window;
    return min(select(0u, here.x + 1u - params.window, outside), end_key(here));
}

fn first_key(here: vec2<u32>) -> u32 {
    return window_start(here) / STEP * STEP;
}

// What a split of so many takes.
fn share(keys: u32, splits: u32) -> u32 {
    let at_once = (max(splits, 2u) - 1u) * STEP;
    // Whole numbers are divided in four times as many instructions. A quotient of floats may be off by one: one too many
    // does not matter.
    var times = max(u32(ceil(f32(keys) / f32(at_once))), 1u);
    times += select(0u, 1u, times * at_once < keys);
    return times * STEP;
}
