// Where the codes and scales of a packed cache are: rows of all heads' words, then of all scales, one for 64 values.

// Scales of a head.
override GROUPS: u32 = 2u;
// Words of a key head and of a value head.
override KEY_HEAD: u32 = 16u;
override VALUE_HEAD: u32 = 16u;

// The group of lane c's values among all of a row.
fn group_of(h: u32, c: u32) -> u32 {
    return h * GROUPS + min(c, params.eights - 1u) / 8u;
}
