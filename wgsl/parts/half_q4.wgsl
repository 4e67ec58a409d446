// A weight of 4-bit codes on its way into workgroup memory as f16: four words, 32 codes of one group, are
// fetched at a time (half_packed). A code becomes a float by its bits, as the lowest of 2^23's.

const LOAD: u32 = 32u;

fn digits(word: u32, shifts: vec4<u32>) -> vec4<f32> {
    let bits = ((vec4<u32>(word) >> shifts) & vec4<u32>(15u)) | vec4<u32>(0x4b000000u);
    return bitcast<vec4<f32>>(bits) - vec4<f32>(8388608.0);
}

fn decode(word: u32, scale: f32, offset: f32) -> mat2x4<f32> {
    return mat2x4<f32>(
        scale * digits(word, vec4<u32>(0u, 4u, 8u, 12u)) + vec4<f32>(offset),
        scale * digits(word, vec4<u32>(16u, 20u, 24u, 28u)) + vec4<f32>(offset),
    );
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
