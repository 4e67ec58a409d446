// Codes as numbers that are too great by what `excess8` says, which is taken off once, of their sum: bits set in place in
// the fraction of a power of two are a number at once, two instructions a value instead of three. What such a sum loses by
// rounding is less than a ten-thousandth of a code, where a code stands for what is up to half a code from it.
// Needs VALUE_BITS (fresh8); codes_of (codes8); nothing (found).

// The powers of two in whose fraction bits from 15 and from 16 on count as whole numbers: 2^8 and 2^7.
const FROM_15: u32 = 0x43800000u;
const FROM_16: u32 = 0x43000000u;

fn set_in(words: vec4<u32>, mask: u32, power: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>((words & vec4<u32>(mask)) | vec4<u32>(power | nothing));
}

// Of codes of 8 bits each where the fraction begins; of others, which begin a byte, each where the third is.
fn raised4(x: u32) -> vec4<f32> {
    if VALUE_BITS == 8u {
        return set_in(vec4<u32>(x << 15u, x << 7u, x >> 1u, x >> 9u), 0x7f8000u, FROM_15);
    }
    let mask = ((1u << VALUE_BITS) - 1u) << 16u;
    return set_in(vec4<u32>(x << 16u, x << 8u, x, x >> 8u), mask, FROM_16);
}

// 8 values of lane c from the words that value8 fetched.
fn raised8(words: vec2<u32>, c: u32) -> mat2x4<f32> {
    var codes = codes_of(words, c, VALUE_BITS);
    if VALUE_BITS == 4u {
        // What else is in a byte is masked.
        codes = vec2<u32>(words.x, words.x >> 4u);
    }
    return mat2x4<f32>(raised4(codes.x), raised4(codes.y));
}

// How much too great they are, with the zero of codes.
fn excess8() -> mat2x4<f32> {
    var excess = 256.0 + 128.0;
    if VALUE_BITS < 8u {
        excess = 128.0 + f32(1u << (VALUE_BITS - 1u)) - 0.5;
    }
    return mat2x4<f32>(vec4<f32>(excess), vec4<f32>(excess));
}
