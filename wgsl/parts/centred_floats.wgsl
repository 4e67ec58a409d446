// Codes as numbers, less their zero, where there is no f16. A few bits set in place in the fraction of a power of two are a
// number exactly, and so is what is left when power and zero are taken off: no conversion, which is slow on some GPUs.
// Needs nothing (codes8).

// The `bits` of a word from place p on, as a number less `zero`; a zero of halves needs p > 0.
fn field(word: u32, bits: u32, p: u32, zero: f32) -> f32 {
    let power = (150u - p) << 23u;
    let unknown = power | nothing;
    let mask = ((1u << bits) - 1u) << p;
    return bitcast<f32>((word & mask) | unknown) - (bitcast<f32>(power) + zero);
}

// 4 codes, one in each byte.
fn centred4(codes: u32, bits: u32) -> vec4<f32> {
    if bits == 8u {
        let up = codes >> 16u;
        return vec4<f32>(
            field(codes, 8u, 0u, 128.0),
            field(codes, 8u, 8u, 128.0),
            field(up, 8u, 0u, 128.0),
            field(up, 8u, 8u, 128.0),
        );
    }
    let zero = f32(1u << (bits - 1u)) - 0.5;
    let low = codes << 1u;
    let up = codes >> 15u;
    return vec4<f32>(
        field(low, bits, 1u, zero),
        field(low, bits, 9u, zero),
        field(up, bits, 1u, zero),
        field(up, bits, 9u, zero),
    );
}
