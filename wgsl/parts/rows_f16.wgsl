// Keys and values in f16 on their way into tiles of f16, 8 in one load of 16 bytes. Nothing is computed before they
// are put into a tile: that would wait for them. Needs narrow.

alias Raw = vec4<u32>;

fn fetch_key(h: u32, j: u32, c: u32) -> Raw {
    return keys[(j * params.kv_heads + h) * (D / 8u) + c];
}

fn fetch_value(h: u32, j: u32, c: u32) -> Raw {
    return values[(j * params.kv_heads + h) * (D / 8u) + c];
}

fn low(raw: Raw) -> vec4<f16> {
    return narrow(raw.xy);
}

fn high(raw: Raw) -> vec4<f16> {
    return narrow(raw.zw);
}
