// Codes as numbers, less their zero. A few bits set in place in the fraction of a power of two are a number exactly,
// and so is what is left when power and zero are taken off: no conversion, which is slow on some GPUs.
// Needs VALUE_BITS; the kernel sets `nothing`.

// 0, which no compiler can know, and which may differ between lanes for all it knows. NVIDIA's masks bits and sets others in
// two instructions if both are constants, else in one; what is alike in all lanes it copies each time.
var<private> nothing: u32;

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

// 8 values of lane c from the words that value8 fetched.
fn values8(words: vec2<u32>, c: u32) -> mat2x4<f32> {
    if VALUE_BITS == 8u {
        return mat2x4<f32>(centred4(words.x, 8u), centred4(words.y, 8u));
    }
    if VALUE_BITS == 4u {
        let w = words.x;
        let up = w << 4u;
        let down = w >> 12u;
        return mat2x4<f32>(
            field(up, 4u, 4u, 7.5), field(w, 4u, 8u, 7.5), field(w, 4u, 16u, 7.5), field(down, 4u, 12u, 7.5),
            field(w, 4u, 4u, 7.5), field(w, 4u, 12u, 7.5), field(down, 4u, 8u, 7.5), field(down, 4u, 16u, 7.5),
        );
    }
    var first = 0u;
    var last = 0u;
    if VALUE_BITS == 5u {
        first = words.x & 0x0f0f0f0fu;
        last = (words.x >> 4u) & 0x0f0f0f0fu;
    } else {
        let two = words.x >> (4u * (c % 2u));
        first = two & 0x03030303u;
        last = (two >> 2u) & 0x03030303u;
    }
    if (VALUE_BITS & 1u) == 1u {
        let one = words.y >> (2u * (c % 4u));
        first |= (one & 0x01010101u) << (VALUE_BITS - 1u);
        last |= ((one >> 1u) & 0x01010101u) << (VALUE_BITS - 1u);
    }
    return mat2x4<f32>(centred4(first, VALUE_BITS), centred4(last, VALUE_BITS));
}
