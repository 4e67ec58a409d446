// A weight of 8-bit codes on its way into workgroup memory as f16: four words, 16 codes of one group, are
// fetched at a time. Two codes of a word become halves at once by their bits, as 1024 + code; less 1152,
// which is exact, they are scaled. Of 4 values the order is 0, 2, 1, 3; `halves` keeps x in the same.
// Parts: narrow; OfGroup, of_group (scales); half_scale.

const LOAD: u32 = 16u;
const REACH: u32 = 256u;

struct Raw { words: vec4<u32>, of_group: OfGroup }

fn fetch(row: u32, k: u32) -> Raw {
    return Raw(weight[(row * params.units + k / 8u) / 2u], of_group(row, k / 32u));
}

fn keep(at: u32, raw: Raw) {
    let by = halves_of(raw.of_group, REACH);
    keep4(at, raw.words.x, REACH, by);
    keep4(at + 4u, raw.words.y, REACH, by);
    keep4(at + 8u, raw.words.z, REACH, by);
    keep4(at + 12u, raw.words.w, REACH, by);
}

fn wide8(row: u32, i: u32) -> mat2x4<f32> {
    let raw = fetch(row, i / 2u * 16u);
    let first = i % 2u * 2u;
    return wide_codes(raw.of_group, codes4(raw.words[first]), codes4(raw.words[first + 1u]));
}
