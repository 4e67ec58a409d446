// The positions first_key .. end_key among which those are that the token at place `here` sees, and how many of them a
// split takes. Needs params.window, table and PAGE (pages).
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

fn share(keys: u32, splits: u32) -> u32 {
    return max((keys + splits * STEP - 1u) / (splits * STEP) * STEP, STEP);
}
