// A weight of 8-bit codes on its way into workgroup memory as f16: four words, 16 codes of one group, are
// fetched at a time. Two codes of a word become halves at once by their bits, as 1024 + code; less 1152,
// which is exact, they are scaled. Of 4 values the order is 0, 2, 1, 3; `halves` keeps x in the same.
// Parts: narrow (x_halves); OfGroup, of_group (scales); half_scale.

const LOAD: u32 = 16u;

struct Raw { words: vec4<u32>, of_group: OfGroup }

fn fetch(row: u32, k: u32) -> Raw {
    return Raw(weight[(row * params.units + k / 8u) / 2u], of_group(row, k / 32u));
}

fn keep4(at: u32, word: u32, by: Halves) {
    let bits = (vec2<u32>(word, word >> 8u) & vec2<u32>(0x00ff00ffu)) | vec2<u32>(0x64006400u);
    put_w(at, fma(narrow(bits) - vec4<f16>(1152.0h), by.scale, by.middle));
}

fn keep(at: u32, raw: Raw) {
    let by = halves_of(raw.of_group, 256u);
    keep4(at, raw.words.x, by);
    keep4(at + 4u, raw.words.y, by);
    keep4(at + 8u, raw.words.z, by);
    keep4(at + 12u, raw.words.w, by);
}

fn wide8(row: u32, i: u32) -> mat2x4<f32> {
    let raw = fetch(row, i / 2u * 16u);
    let shifts = vec4<u32>(0u, 16u, 8u, 24u);
    let mask = vec4<u32>(255u);
    let first = i % 2u * 2u;
    let low = (vec4<u32>(raw.words[first]) >> shifts) & mask;
    return wide_codes(raw.of_group, low, (vec4<u32>(raw.words[first + 1u]) >> shifts) & mask);
}
