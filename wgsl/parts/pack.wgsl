// 16-bit floats and bytes in 32-bit words: the element `i` of the word that holds it, and back (rounded to
// nearest even).

fn half_at(word: u32, i: u32) -> f32 {
    let pair = unpack2x16float(word);
    return select(pair.x, pair.y, (i & 1u) == 1u);
}

fn brain_at(word: u32, i: u32) -> f32 {
    return bitcast<f32>(select(word << 16u, word & 0xffff0000u, (i & 1u) == 1u));
}

fn byte_at(word: u32, i: u32) -> u32 {
    return (word >> ((i & 3u) * 8u)) & 255u;
}

// By integers: WGSL leaves the rounding of pack2x16float open, and NVIDIA's cuts.
fn to_half(x: f32) -> u32 {
    let sign = (bitcast<u32>(x) >> 16u) & 0x8000u;
    let a = bitcast<u32>(x) & 0x7fffffffu;
    var half = (a + 0xfffu + ((a >> 13u) & 1u)) >> 13u;
    half = min(half - 0x1c000u, 0x7c00u);
    if a < 0x38800000u {
        // Below 2^-14 halves are whole multiples of 2^-24; adding 1/2 rounds to them.
        half = bitcast<u32>(bitcast<f32>(a) + 0.5) - 0x3f000000u;
    }
    if a > 0x7f800000u {
        half = 0x7e00u;
    }
    return sign | half;
}

fn to_brain(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    let rounded = (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
    return select(rounded, (bits >> 16u) | 64u, (bits & 0x7fffffffu) > 0x7f800000u);
}
