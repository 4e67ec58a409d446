// Keys and values in f32, 8 at a time, as they are stored (Eight) and as numbers.

alias Eight = mat2x4<f32>;

fn key8(at: u32) -> Eight {
    return mat2x4<f32>(keys[2u * at], keys[2u * at + 1u]);
}

fn value8(at: u32) -> Eight {
    return mat2x4<f32>(values[2u * at], values[2u * at + 1u]);
}

fn set_key8(at: u32, x: Eight) {
    keys[2u * at] = x[0];
    keys[2u * at + 1u] = x[1];
}

fn set_value8(at: u32, x: Eight) {
    values[2u * at] = x[0];
    values[2u * at + 1u] = x[1];
}

fn eight(x: Eight) -> mat2x4<f32> {
    return x;
}

fn round8(x: mat2x4<f32>) -> Eight {
    return x;
}
