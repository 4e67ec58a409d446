// Keys and values of a packed cache for over_keys: the codes of 8 values of a head, and the scale of their group of 64.
// Needs key8, value8, key_word, value_word (generated); values8 (codes8).

// Scales of a head.
override GROUPS: u32 = 2u;
// Words of a key head and of a value head.
override KEY_HEAD: u32 = 16u;
override VALUE_HEAD: u32 = 16u;

// As fetched: a word of scales has those of two groups.
struct Eight { words: vec2<u32>, scales: u32 }

fn place_of(row: u32, h: u32, c: u32) -> u32 {
    return row;
}

// The group of lane c's values among all of a row.
fn group_of(h: u32, c: u32) -> u32 {
    return h * GROUPS + min(c, params.eights - 1u) / 8u;
}

fn key_at(row: u32, h: u32, c: u32) -> Eight {
    let at = row * params.key_words;
    return Eight(key8(at + h * KEY_HEAD, c), key_word(at + params.kv_heads * KEY_HEAD + group_of(h, c) / 2u));
}

fn value_at(row: u32, h: u32, c: u32) -> Eight {
    let at = row * params.value_words;
    return Eight(value8(at + h * VALUE_HEAD, c), value_word(at + params.kv_heads * VALUE_HEAD + group_of(h, c) / 2u));
}

fn scale_of(x: Eight, h: u32, c: u32) -> f32 {
    return unpack2x16float(x.scales >> (16u * (group_of(h, c) & 1u))).x;
}

// Scales multiply weights, which are fewer than values.
fn weighted(weights: vec4<f32>, value: Eight, h: u32, c: u32) -> vec4<f32> {
    return scale_of(value, h, c) * weights;
}

fn numbers8(value: Eight, c: u32) -> mat2x4<f32> {
    return values8(value.words, c);
}
