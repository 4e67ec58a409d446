// A weight of 8-bit codes on its way into workgroup memory as f16: four words, 16 codes of one group, are
// fetched at a time (half_packed). A code becomes a float by its bits, 1 + code / 256, and a weight by one more
// multiply-add.

const LOAD: u32 = 16u;

fn decode(word: u32, scale: f32, offset: f32) -> vec4<f32> {
    let places = vec4<u32>(word << 15u, word << 7u, word >> 1u, word >> 9u);
    let digits = bitcast<vec4<f32>>((places & vec4<u32>(0x007f8000u)) | vec4<u32>(0x3f800000u));
    return fma(digits, vec4<f32>(256.0 * scale), vec4<f32>(offset - 256.0 * scale));
}

fn keep(at: u32, raw: Raw) {
    let scale = widen(SCALES, raw.scale, raw.group);
    let offset = widen(SCALES, raw.offset, raw.group);
    peak = max(peak, max(abs(offset), abs(offset + 255.0 * scale)));
    put_w(at, vec4<f16>(decode(raw.words.x, scale, offset)));
    put_w(at + 4u, vec4<f16>(decode(raw.words.y, scale, offset)));
    put_w(at + 8u, vec4<f16>(decode(raw.words.z, scale, offset)));
    put_w(at + 12u, vec4<f16>(decode(raw.words.w, scale, offset)));
}

fn wide8(row: u32, i: u32) -> mat2x4<f32> {
    let raw = fetch(row, i / 2u * 16u);
    let scale = widen(SCALES, raw.scale, raw.group);
    let offset = widen(SCALES, raw.offset, raw.group);
    let first = i % 2u * 2u;
    return mat2x4<f32>(decode(raw.words[first], scale, offset), decode(raw.words[first + 1u], scale, offset));
}
