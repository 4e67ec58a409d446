// Activations as `halves` wrote them, 8 in one load of 16 bytes; into workgroup memory they go as they are. Needs narrow.

alias Values = vec4<u32>;
const X_LOAD: u32 = 8u;

fn store_x(at: u32, values: Values) {
    put_x(at, narrow(values.xy));
    put_x(at + 4u, narrow(values.zw));
}

fn wide_x8(i: u32) -> mat2x4<f32> {
    let words = x[i];
    return mat2x4<f32>(
        vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y)),
        vec4<f32>(unpack2x16float(words.z), unpack2x16float(words.w)),
    );
}
