// Keys and values in f32: 4 values of head h of row j from 4 c on, one load; heads are whole vectors.

fn cache_at(h: u32, j: u32, c: u32) -> u32 {
    return (j * params.kv_heads + h) * params.chunks + c;
}

fn key4(h: u32, j: u32, c: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(keys[cache_at(h, j, c)]);
}

fn value4(h: u32, j: u32, c: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(values[cache_at(h, j, c)]);
}
