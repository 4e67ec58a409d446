// Keys and values of a cache of floats for by_floats. Needs key8, value8, eight (cache8_*), ready_dots (rows).

fn keep_query(lane: u32, c: u32, row: u32, q: mat2x4<f32>, unit: f32) {}

fn place_of(row: u32, h: u32, c: u32) -> u32 {
    return (row * params.kv_heads + h) * params.eights + min(c, params.eights - 1u);
}

fn key_at(at: u32, h: u32, c: u32) -> Eight {
    return key8(at);
}

fn value_at(at: u32, h: u32, c: u32) -> Eight {
    return value8(at);
}

// This lane's share of the scores of a key with each query head.
fn scores(key: Eight, h: u32, c: u32) -> vec4<f32> {
    return ready_dots(c, eight(key));
}

fn weighted(weights: vec4<f32>, value: Eight, h: u32, c: u32) -> vec4<f32> {
    return weights;
}

fn numbers8(value: Eight, c: u32) -> mat2x4<f32> {
    return eight(value);
}
