// A weight of 2, 3 or 4-bit codes on its way into workgroup memory as f16: 32 codes of one group are fetched at a time, and
// stand two in a byte. Two of a word become halves at once by their bits, as 1024 + code; less that and half of what codes
// reach, which is exact, they are scaled. Of 8 values the order is 0, 4, 1, 5, 2, 6, 3, 7; `halves` keeps x in the same.
// Parts: narrow; Packed, packed, pairs_of, FIELD (codes_q2, codes_q3, codes_q4); half_scale.

const LOAD: u32 = 32u;
const BITS: u32 = FIELD / 2u;
const REACH: u32 = 1u << BITS;

alias Raw = Packed;

fn fetch(row: u32, k: u32) -> Raw {
    return packed(row, k / LOAD);
}

fn codes(first: u32, second: u32) -> vec4<f16> {
    let bits = (vec2<u32>(first, second) & vec2<u32>((REACH - 1u) * 0x00010001u)) | vec2<u32>(0x64006400u);
    return narrow(bits) - vec4<f16>(f16(1024u + REACH / 2u));
}

fn keep8(at: u32, word: u32, by: Halves) {
    put_w(at, fma(codes(word, word >> BITS), by.scale, by.middle));
    put_w(at + 4u, fma(codes(word >> 8u, word >> (8u + BITS)), by.scale, by.middle));
}

fn keep(at: u32, raw: Raw) {
    let by = halves_of(raw.of_group, REACH);
    let pairs = pairs_of(raw);
    keep8(at, pairs.x, by);
    keep8(at + 8u, pairs.y, by);
    keep8(at + 16u, pairs.z, by);
    keep8(at + 24u, pairs.w, by);
}

fn wide8(row: u32, i: u32) -> mat2x4<f32> {
    let raw = packed(row, i / 4u);
    let word = vec4<u32>(pairs_of(raw)[i % 4u]);
    let shifts = vec4<u32>(0u, 16u, BITS, 16u + BITS);
    let mask = vec4<u32>(REACH - 1u);
    return wide_codes(raw.of_group, (word >> shifts) & mask, (word >> (shifts + vec4<u32>(8u))) & mask);
}
