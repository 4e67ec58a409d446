// Keys and values in f16: 4 values of head h of row j from 4 c on, one load; heads are whole vectors.

fn cache_at(h: u32, j: u32, c: u32) -> u32 {
    return (j * params.kv_heads + h) * params.chunks + c;
}

fn key4(h: u32, j: u32, c: u32) -> vec4<f32> {
    let word = keys[cache_at(h, j, c)];
    return vec4<f32>(unpack2x16float(word.x), unpack2x16float(word.y));
}

fn value4(h: u32, j: u32, c: u32) -> vec4<f32> {
    let word = values[cache_at(h, j, c)];
    return vec4<f32>(unpack2x16float(word.x), unpack2x16float(word.y));
}
