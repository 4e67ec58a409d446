// Keys and values in f16, 8 at a time, as they are stored (Eight) and as numbers. Needs pack.

alias Eight = vec4<u32>;

fn key8(at: u32) -> Eight {
    return keys[at];
}

fn value8(at: u32) -> Eight {
    return values[at];
}

fn set_key8(at: u32, x: Eight) {
    keys[at] = x;
}

fn set_value8(at: u32, x: Eight) {
    values[at] = x;
}

fn eight(x: Eight) -> mat2x4<f32> {
    return mat2x4<f32>(
        vec4<f32>(unpack2x16float(x.x), unpack2x16float(x.y)),
        vec4<f32>(unpack2x16float(x.z), unpack2x16float(x.w)),
    );
}

fn halves(low: f32, high: f32) -> u32 {
    return to_half(low) | (to_half(high) << 16u);
}

fn round8(x: mat2x4<f32>) -> Eight {
    return vec4<u32>(
        halves(x[0].x, x[0].y),
        halves(x[0].z, x[0].w),
        halves(x[1].x, x[1].y),
        halves(x[1].z, x[1].w),
    );
}
