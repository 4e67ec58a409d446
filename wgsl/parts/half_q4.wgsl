// A weight of 4-bit codes on its way into workgroup memory as f16: four words, 32 codes of one group, are
// fetched at a time (half_packed). Two codes of a word become halves at once by their bits, as 1024 + code; less 1032,
// which is exact, they are scaled. Of 8 values the order is 0, 4, 1, 5, 2, 6, 3, 7; `halves` keeps x in the same.
// Needs narrow.

const LOAD: u32 = 32u;

fn codes(first: u32, second: u32) -> vec4<f16> {
    return narrow((vec2<u32>(first, second) & vec2<u32>(0x000f000fu)) | vec2<u32>(0x64006400u)) - vec4<f16>(1032.0h);
}

fn keep1(at: u32, word: u32, scale: vec4<f16>, middle: vec4<f16>) {
    put_w(at, fma(codes(word, word >> 4u), scale, middle));
    put_w(at + 4u, fma(codes(word >> 8u, word >> 12u), scale, middle));
}

fn keep(at: u32, raw: Raw) {
    let scale = LIFT * widen(SCALES, raw.scale, raw.group);
    let offset = LIFT * widen(SCALES, raw.offset, raw.group);
    peak = max(peak, max(abs(offset), abs(offset + 15.0 * scale)));
    let s = vec4<f16>(f16(scale));
    let middle = vec4<f16>(f16(offset + 8.0 * scale));
    keep1(at, raw.words.x, s, middle);
    keep1(at + 8u, raw.words.y, s, middle);
    keep1(at + 16u, raw.words.z, s, middle);
    keep1(at + 24u, raw.words.w, s, middle);
}

fn wide8(row: u32, i: u32) -> mat2x4<f32> {
    let raw = fetch(row, i / 4u * 32u);
    let scale = LIFT * widen(SCALES, raw.scale, raw.group);
    let offset = vec4<f32>(LIFT * widen(SCALES, raw.offset, raw.group));
    let word = vec4<u32>(raw.words[i % 4u]);
    let low = vec4<f32>((word >> vec4<u32>(0u, 16u, 4u, 20u)) & vec4<u32>(15u));
    let high = vec4<f32>((word >> vec4<u32>(8u, 24u, 12u, 28u)) & vec4<u32>(15u));
    return mat2x4<f32>(scale * low + offset, scale * high + offset);
}
