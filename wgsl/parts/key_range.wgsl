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

// Tiles from which on splits have nearly as many each, rather than a whole number: with few that would keep workgroups busy
// that else end at once, and a step of a model of 8B takes 2 to 3% longer on an NVIDIA H200; with many 1% less.
const MANY_TILES: f32 = 4.0;

// Where a split begins among so many keys. All but the last have some, as long as there are any.
fn begin_of(split: u32, splits: u32, keys: u32) -> u32 {
    let tiles = (keys + STEP - 1u) / STEP;
    let own = max(splits, 2u) - 1u;
    let share = max(f32(tiles) / f32(own), 1.0);
    let each = select(share, ceil(share), share < MANY_TILES);
    return STEP * select(u32(each * f32(split)), tiles, split >= own);
}
