// A weight of 2, 3 or 4-bit codes on its way into workgroup memory as f16: 32 codes of one group are fetched at a time, and
// stand two in a byte. Two of a word become halves at once by their bits, as 1024 + code; less that and half of what codes
// reach, which is exact, they are scaled. Of 8 values the order is 0, 4, 1, 5, 2, 6, 3, 7; `halves` keeps x in the same.
// Parts: narrow (x_halves); Packed, packed, pairs_of, FIELD (codes_q2, codes_q3, codes_q4); SCALES (scales), widen (floats).

const LOAD: u32 = 32u;
// Weights come times so much: their scale, which is smaller than they are, is then no subnormal half.
const LIFT: f32 = 64.0;
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

fn keep1(at: u32, word: u32, scale: vec4<f16>, middle: vec4<f16>) {
    put_w(at, fma(codes(word, word >> BITS), scale, middle));
    put_w(at + 4u, fma(codes(word >> 8u, word >> (8u + BITS)), scale, middle));
}

fn keep(at: u32, raw: Raw) {
    let scale = LIFT * widen(SCALES, raw.of_group.scale, raw.of_group.group);
    let offset = LIFT * widen(SCALES, raw.of_group.offset, raw.of_group.group);
    peak = max(peak, max(abs(offset), abs(offset + f32(REACH - 1u) * scale)));
    let s = vec4<f16>(f16(scale));
    let middle = vec4<f16>(f16(offset + f32(REACH / 2u) * scale));
    let pairs = pairs_of(raw);
    keep1(at, pairs.x, s, middle);
    keep1(at + 8u, pairs.y, s, middle);
    keep1(at + 16u, pairs.z, s, middle);
    keep1(at + 24u, pairs.w, s, middle);
}

fn wide8(row: u32, i: u32) -> mat2x4<f32> {
    let raw = packed(row, i / 4u);
    let scale = LIFT * widen(SCALES, raw.of_group.scale, raw.of_group.group);
    let offset = vec4<f32>(LIFT * widen(SCALES, raw.of_group.offset, raw.of_group.group));
    let word = vec4<u32>(pairs_of(raw)[i % 4u]);
    let shifts = vec4<u32>(0u, 16u, BITS, 16u + BITS);
    let low = vec4<f32>((word >> shifts) & vec4<u32>(REACH - 1u));
    let high = vec4<f32>((word >> (shifts + vec4<u32>(8u))) & vec4<u32>(REACH - 1u));
    return mat2x4<f32>(scale * low + offset, scale * high + offset);
}
