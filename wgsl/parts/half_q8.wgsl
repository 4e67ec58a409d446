// A weight of 8-bit codes on its way into workgroup memory as f16: four words, 16 codes of one group, are
// fetched at a time. Two codes of a word become halves at once by their bits, as 1024 + code; less 1152,
// which is exact, they are scaled. Of 4 values the order is 0, 2, 1, 3; `halves` keeps x in the same.
// Parts: narrow (x_halves); place, widen (floats).

const LOAD: u32 = 16u;
// Weights come times so much: their scale, which is smaller than they are, is then no subnormal half.
const LIFT: f32 = 64.0;

struct Raw { words: vec4<u32>, scale: u32, offset: u32, group: u32 }

override SCALES: u32 = 0u;
override GROUP: u32 = 8u;

fn fetch(row: u32, k: u32) -> Raw {
    let group = row * params.groups + k / (8u * GROUP);
    let at = place(SCALES, group);
    return Raw(weight[(row * params.units + k / 8u) / (LOAD / 8u)], scales[at], biases[at], group);
}

fn keep1(at: u32, word: u32, scale: vec4<f16>, middle: vec4<f16>) {
    let bits = (vec2<u32>(word, word >> 8u) & vec2<u32>(0x00ff00ffu)) | vec2<u32>(0x64006400u);
    put_w(at, fma(narrow(bits) - vec4<f16>(1152.0h), scale, middle));
}

fn keep(at: u32, raw: Raw) {
    let scale = LIFT * widen(SCALES, raw.scale, raw.group);
    let offset = LIFT * widen(SCALES, raw.offset, raw.group);
    peak = max(peak, max(abs(offset), abs(offset + 255.0 * scale)));
    let s = vec4<f16>(f16(scale));
    let middle = vec4<f16>(f16(offset + 128.0 * scale));
    keep1(at, raw.words.x, s, middle);
    keep1(at + 4u, raw.words.y, s, middle);
    keep1(at + 8u, raw.words.z, s, middle);
    keep1(at + 12u, raw.words.w, s, middle);
}

fn wide8(row: u32, i: u32) -> mat2x4<f32> {
    let raw = fetch(row, i / 2u * 16u);
    let scale = LIFT * widen(SCALES, raw.scale, raw.group);
    let offset = vec4<f32>(LIFT * widen(SCALES, raw.offset, raw.group));
    let shifts = vec4<u32>(0u, 16u, 8u, 24u);
    let first = i % 2u * 2u;
    let low = vec4<f32>((vec4<u32>(raw.words[first]) >> shifts) & vec4<u32>(255u));
    let high = vec4<f32>((vec4<u32>(raw.words[first + 1u]) >> shifts) & vec4<u32>(255u));
    return mat2x4<f32>(scale * low + offset, scale * high + offset);
}
