// A weight of 6-bit codes on its way into workgroup memory as f16: 32 codes of one group are fetched at a time, and
// stand one in a byte. Two of a word become halves at once by their bits, as 1024 + code; less that and half of what codes
// reach, which is exact, they are scaled. Of 4 values the order is 0, 2, 1, 3; `halves` keeps x in the same.
// Parts: narrow; Packed, packed, bytes_of, FIELD (codes_q6); half_scale.

const LOAD: u32 = 32u;
const REACH: u32 = 1u << FIELD;

alias Raw = Packed;

fn fetch(row: u32, k: u32) -> Raw {
    return packed(row, k / LOAD);
}

fn keep(at: u32, raw: Raw) {
    let by = halves_of(raw.of_group, REACH);
    let bytes = bytes_of(raw);
    keep4(at, bytes.first.x, REACH, by);
    keep4(at + 4u, bytes.last.x, REACH, by);
    keep4(at + 8u, bytes.first.y, REACH, by);
    keep4(at + 12u, bytes.last.y, REACH, by);
    keep4(at + 16u, bytes.first.z, REACH, by);
    keep4(at + 20u, bytes.last.z, REACH, by);
    keep4(at + 24u, bytes.first.w, REACH, by);
    keep4(at + 28u, bytes.last.w, REACH, by);
}

fn wide8(row: u32, i: u32) -> mat2x4<f32> {
    let raw = packed(row, i / 4u);
    let bytes = bytes_of(raw);
    return wide_codes(raw.of_group, codes4(bytes.first[i % 4u]), codes4(bytes.last[i % 4u]));
}
