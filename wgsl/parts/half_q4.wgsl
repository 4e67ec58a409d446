// A weight of 4-bit codes on its way into workgroup memory as f16: four words, 32 codes of one group, are
// fetched at a time (half_packed). A code becomes a float by its bits, 1 + code / 16, and a weight by one more
// multiply-add.

const LOAD: u32 = 32u;

fn digits(places: vec4<u32>) -> vec4<f32> {
    return bitcast<vec4<f32>>((places & vec4<u32>(0x00780000u)) | vec4<u32>(0x3f800000u));
}

fn decode(word: u32, scale: f32, offset: f32) -> mat2x4<f32> {
    let step = vec4<f32>(16.0 * scale);
    let base = vec4<f32>(offset - 16.0 * scale);
    let low = vec4<u32>(word) << vec4<u32>(19u, 15u, 11u, 7u);
    let high = vec4<u32>(word << 3u, word >> 1u, word >> 5u, word >> 9u);
    return mat2x4<f32>(fma(digits(low), step, base), fma(digits(high), step, base));
}

fn keep1(at: u32, word: u32, scale: f32, offset: f32) {
    let values = decode(word, scale, offset);
    put_w(at, vec4<f16>(values[0]));
    put_w(at + 4u, vec4<f16>(values[1]));
}

fn keep(at: u32, raw: Raw) {
    let scale = widen(SCALES, raw.scale, raw.group);
    let offset = widen(SCALES, raw.offset, raw.group);
    peak = max(peak, max(abs(offset), abs(offset + 15.0 * scale)));
    keep1(at, raw.words.x, scale, offset);
    keep1(at + 8u, raw.words.y, scale, offset);
    keep1(at + 16u, raw.words.z, scale, offset);
    keep1(at + 24u, raw.words.w, scale, offset);
}

fn wide8(row: u32, i: u32) -> mat2x4<f32> {
    let raw = fetch(row, i / 4u * 32u);
    return decode(raw.words[i % 4u], widen(SCALES, raw.scale, raw.group), widen(SCALES, raw.offset, raw.group));
}
