// Activations: x8(m, i) is 8 values of row m from k = 8 i on, zeros past the end of the row.

fn x1(m: u32, k: u32) -> f32 {
    if k < params.k {
        return x[m * params.k + k];
    }
    return 0.0;
}

fn x8(m: u32, i: u32) -> mat2x4<f32> {
    let k = i * 8u;
    return mat2x4<f32>(
        vec4<f32>(x1(m, k), x1(m, k + 1u), x1(m, k + 2u), x1(m, k + 3u)),
        vec4<f32>(x1(m, k + 4u), x1(m, k + 5u), x1(m, k + 6u), x1(m, k + 7u)),
    );
}
