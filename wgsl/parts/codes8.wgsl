// Codes of 8 values, as words hold them.

// The first four and the last of lane c's 8, one in each byte, from the words that key8 or value8 fetched.
fn codes_of(words: vec2<u32>, c: u32, bits: u32) -> vec2<u32> {
    if bits == 8u {
        return words;
    }
    var first = 0u;
    var last = 0u;
    if bits >= 4u {
        first = words.x & 0x0f0f0f0fu;
        last = (words.x >> 4u) & 0x0f0f0f0fu;
    } else {
        let two = words.x >> (4u * (c % 2u));
        first = two & 0x03030303u;
        last = (two >> 2u) & 0x03030303u;
    }
    if (bits & 1u) == 1u {
        let one = words.y >> (2u * (c % 4u));
        first |= (one & 0x01010101u) << (bits - 1u);
        last |= ((one >> 1u) & 0x01010101u) << (bits - 1u);
    }
    return vec2<u32>(first, last);
}
