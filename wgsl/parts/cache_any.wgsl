// Keys and values of kind CACHE (see floats) and heads of any size: 4 values of head h of row j from 4 c on,
// zeros past the end of the head.

override CACHE: u32 = 0u;

fn key1(at: u32, inside: bool) -> f32 {
    if inside {
        return widen(CACHE, keys[place(CACHE, at)], at);
    }
    return 0.0;
}

fn value1(at: u32, inside: bool) -> f32 {
    if inside {
        return widen(CACHE, values[place(CACHE, at)], at);
    }
    return 0.0;
}

fn key4(h: u32, j: u32, c: u32) -> vec4<f32> {
    let at = (j * params.kv_heads + h) * params.d + 4u * c;
    let left = params.d - 4u * c;
    return vec4<f32>(key1(at, true), key1(at + 1u, left > 1u), key1(at + 2u, left > 2u), key1(at + 3u, left > 3u));
}

fn value4(h: u32, j: u32, c: u32) -> vec4<f32> {
    let at = (j * params.kv_heads + h) * params.d + 4u * c;
    let left = params.d - 4u * c;
    return vec4<f32>(
        value1(at, true),
        value1(at + 1u, left > 1u),
        value1(at + 2u, left > 2u),
        value1(at + 3u, left > 3u),
    );
}
