// What packed weights have in common on their way into workgroup memory as f16: scale and bias, and codes that stand one in a
// byte. Needs OfGroup, SCALES (scales), widen (floats), narrow, put_w, peak.

// Weights come times so much: their scale, which is smaller than they are, is then no subnormal half.
const LIFT: f32 = 64.0;

struct Halves { scale: vec4<f16>, middle: vec4<f16> }

fn lifted(group: OfGroup) -> vec2<f32> {
    return LIFT * vec2<f32>(widen(SCALES, group.scale, group.group), widen(SCALES, group.offset, group.group));
}

// For codes below `reach`, less half of it.
fn halves_of(group: OfGroup, reach: u32) -> Halves {
    let x = lifted(group);
    peak = max(peak, max(abs(x.y), abs(x.y + f32(reach - 1u) * x.x)));
    return Halves(vec4<f16>(f16(x.x)), vec4<f16>(f16(x.y + f32(reach / 2u) * x.x)));
}

// 8 codes as f32 weights.
fn wide_codes(group: OfGroup, low: vec4<u32>, high: vec4<u32>) -> mat2x4<f32> {
    let x = lifted(group);
    return mat2x4<f32>(x.x * vec4<f32>(low) + x.y, x.x * vec4<f32>(high) + x.y);
}

// A word of codes below `reach`, in the order 0, 2, 1, 3.
fn keep4(at: u32, word: u32, reach: u32, by: Halves) {
    let bits = (vec2<u32>(word, word >> 8u) & vec2<u32>(0x00ff00ffu)) | vec2<u32>(0x64006400u);
    put_w(at, fma(narrow(bits) - vec4<f16>(f16(1024u + reach / 2u)), by.scale, by.middle));
}

// The same as numbers.
fn codes4(word: u32) -> vec4<u32> {
    return (vec4<u32>(word) >> vec4<u32>(0u, 16u, 8u, 24u)) & vec4<u32>(255u);
}
