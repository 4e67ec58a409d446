// Where the scales of a packed cache are, seen as words. Needs key_word, value_word (generated); GROUPS, KEY_HEAD, VALUE_HEAD
// (packed8).

// The group of lane c's values among all of a row.
fn group_of(h: u32, c: u32) -> u32 {
    return h * GROUPS + min(c, params.eights - 1u) / 8u;
}

// The word that the scale of a group of keys is in, of the row whose first word is `at`; the other half is a neighbour's.
fn key_scales(at: u32, group: u32) -> u32 {
    return key_word(at + params.kv_heads * KEY_HEAD + group / 2u);
}

fn value_scales(at: u32, group: u32) -> u32 {
    return value_word(at + params.kv_heads * VALUE_HEAD + group / 2u);
}

fn scale_in(word: u32, group: u32) -> f32 {
    let both = unpack2x16float(word);
    return select(both.x, both.y, (group & 1u) == 1u);
}
