// A weight of 6-bit codes on its way into workgroup memory as f16: 32 codes of one group are fetched at a time, and
// stand one in a byte. Two of a word become halves at once by their bits, as 1024 + code; less that and half of what codes
// reach, which is exact, they are scaled. Of 4 values the order is 0, 2, 1, 3; `halves` keeps x in the same.
// Parts: narrow (x_halves); Packed, packed, bytes_of, FIELD (codes_q6); half_scale.

const LOAD: u32 = 32u;
const REACH: u32 = 1u << FIELD;

alias Raw = Packed;

fn fetch(row: u32, k: u32) -> Raw {
    return packed(row, k / LOAD);
}

fn keep4(at: u32, word: u32, by: Halves) {
    let bits = (vec2<u32>(word, word >> 8u) & vec2<u32>(0x00ff00ffu)) | vec2<u32>(0x64006400u);
    put_w(at, fma(narrow(bits) - vec4<f16>(f16(1024u + REACH / 2u)), by.scale, by.middle));
}

fn keep(at: u32, raw: Raw) {
    let by = halves_of(raw.of_group, REACH);
    let bytes = bytes_of(raw);
    keep4(at, bytes.first.x, by);
    keep4(at + 4u, bytes.last.x, by);
    keep4(at + 8u, bytes.first.y, by);
    keep4(at + 12u, bytes.last.y, by);
    keep4(at + 16u, bytes.first.z, by);
    keep4(at + 20u, bytes.last.z, by);
    keep4(at + 24u, bytes.first.w, by);
    keep4(at + 28u, bytes.last.w, by);
}

fn wide8(row: u32, i: u32) -> mat2x4<f32> {
    let raw = packed(row, i / 4u);
    let bytes = bytes_of(raw);
    let shifts = vec4<u32>(0u, 16u, 8u, 24u);
    let mask = vec4<u32>(255u);
    let low = (vec4<u32>(bytes.first[i % 4u]) >> shifts) & mask;
    let high = (vec4<u32>(bytes.last[i % 4u]) >> shifts) & mask;
    return wide_codes(raw.of_group, low, high);
}
