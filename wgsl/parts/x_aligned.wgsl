// Activations: x8(m, i) is 8 values of row m from k = 8 i on. Rows are whole units of 8.

fn x8(m: u32, i: u32) -> mat2x4<f32> {
    let at = (m * params.units + i) * 2u;
    return mat2x4<f32>(x[at], x[at + 1u]);
}
