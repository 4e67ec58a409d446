// Packed keys and values on their way into tiles of f16. Parts: key4, value4, key_scale, value_scale (cache_packed).

struct Raw { low: vec4<f16>, high: vec4<f16> }

fn fetch_key(h: u32, j: u32, c: u32) -> Raw {
    let scale = key_scale(h, j, 2u * c);
    return Raw(vec4<f16>(scale * key4(h, j, 2u * c)), vec4<f16>(scale * key4(h, j, 2u * c + 1u)));
}

fn fetch_value(h: u32, j: u32, c: u32) -> Raw {
    let scale = value_scale(h, j, 2u * c);
    return Raw(vec4<f16>(scale * value4(h, j, 2u * c)), vec4<f16>(scale * value4(h, j, 2u * c + 1u)));
}

fn low(raw: Raw) -> vec4<f16> {
    return raw.low;
}

fn high(raw: Raw) -> vec4<f16> {
    return raw.high;
}
