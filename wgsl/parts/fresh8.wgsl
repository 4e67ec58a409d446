// Heads of this step as a packed cache keeps them: rotated, coded in groups of 64, 8 lanes a group, exactly as
// kv_pack does it. Needs greatest_of (greatest), to_half (pack).

override KEY_BITS: u32 = 4u;
override KEY_REACH: f32 = 0.125;
override KEY_EDGE: f32 = 8.0;
override VALUE_BITS: u32 = 4u;
override VALUE_REACH: f32 = 0.125;
override VALUE_EDGE: f32 = 8.0;

// 8 values of a head: codes, one in each byte; their group's scale; what they stand for.
struct Coded { first: u32, last: u32, scale: f32, stands_for: mat2x4<f32> }

fn codes4(x: vec4<f32>, scale: f32, edge: f32, top: f32) -> vec4<f32> {
    let inverse = select(0.0, 1.0 / max(scale, 1.0e-8), scale > 0.0);
    var u = clamp(floor(x * inverse + edge), vec4<f32>(0.0), vec4<f32>(top));
    // The quotient may be off by a rounding; these products are not.
    u += select(vec4<f32>(0.0), vec4<f32>(1.0), x >= scale * (u + 1.0 - edge));
    u -= select(vec4<f32>(0.0), vec4<f32>(1.0), x < scale * (u - edge));
    return clamp(u, vec4<f32>(0.0), vec4<f32>(top));
}

fn bytes4(u: vec4<f32>) -> u32 {
    let v = vec4<u32>(u);
    return v.x | (v.y << 8u) | (v.z << 16u) | (v.w << 24u);
}

// Lane c's part of a head, which is rotated already; all call.
fn coded(lane: u32, c: u32, x: mat2x4<f32>, is_value: bool) -> Coded {
    let edge = select(KEY_EDGE, VALUE_EDGE, is_value);
    let top = f32((1u << select(KEY_BITS, VALUE_BITS, is_value)) - 1u);
    let most = greatest_of(lane, x, 8u);
    let scale = unpack2x16float(to_half(most * select(KEY_REACH, VALUE_REACH, is_value))).x;
    let first = codes4(x[0], scale, edge, top);
    let last = codes4(x[1], scale, edge, top);
    let zero = edge - 0.5;
    var result = Coded(0u, 0u, scale, mat2x4<f32>(scale * (first - zero), scale * (last - zero)));
    if c < params.eights {
        result.first = bytes4(first);
        result.last = bytes4(last);
    }
    return result;
}
