// Packed keys and values for by_floats: the codes of 8 values of a head, and the scale of their group.
// Needs key8, value8 (generated); group_of, key_scales, value_scales, scale_in (scales8); codes_of (codes8);
// centred4 (centred_floats, centred_halves); ready_dots (rows).

// As fetched, with the word that the scale is in.
struct Eight { words: vec2<u32>, scales: u32 }

fn keep_query(lane: u32, c: u32, row: u32, q: mat2x4<f32>, unit: f32) {}

fn place_of(row: u32, h: u32, c: u32) -> u32 {
    return row;
}

fn key_at(row: u32, h: u32, c: u32) -> Eight {
    let at = row * params.key_words;
    return Eight(key8(at + h * KEY_HEAD, c), key_scales(at, group_of(h, c)));
}

fn value_at(row: u32, h: u32, c: u32) -> Eight {
    let at = row * params.value_words;
    return Eight(value8(at + h * VALUE_HEAD, c), value_scales(at, group_of(h, c)));
}

fn scale_of(x: Eight, h: u32, c: u32) -> f32 {
    return scale_in(x.scales, group_of(h, c));
}

// Scales multiply weights, which are fewer than values.
fn weighted(weights: vec4<f32>, value: Eight, h: u32, c: u32) -> vec4<f32> {
    return scale_of(value, h, c) * weights;
}

fn centred8(words: vec2<u32>, c: u32, bits: u32) -> mat2x4<f32> {
    let codes = codes_of(words, c, bits);
    return mat2x4<f32>(centred4(codes.x, bits), centred4(codes.y, bits));
}

fn numbers8(value: Eight, c: u32) -> mat2x4<f32> {
    return centred8(value.words, c, VALUE_BITS);
}

// This lane's share of the scores of a key with each query head.
fn scores(key: Eight, h: u32, c: u32) -> vec4<f32> {
    return scale_of(key, h, c) * ready_dots(c, centred8(key.words, c, KEY_BITS));
}
