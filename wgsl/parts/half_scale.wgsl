// Scale and bias of packed weights on their way into workgroup memory as f16. Needs OfGroup, SCALES (scales), widen (floats),
// peak.

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
