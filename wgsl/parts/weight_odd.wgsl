// 8 values of row `row` from k = 8 i on, zeros past the end of the row, of kind WEIGHT (see floats): for rows
// that are not whole units of 8.

override WEIGHT: u32 = 0u;

fn weight1(row: u32, k: u32) -> f32 {
    if k < params.k {
        let at = row * params.k + k;
        return widen(WEIGHT, weight[place(WEIGHT, at)], at);
    }
    return 0.0;
}

fn code8(row: u32, i: u32) -> mat2x4<f32> {
    let k = i * 8u;
    return mat2x4<f32>(
        vec4<f32>(weight1(row, k), weight1(row, k + 1u), weight1(row, k + 2u), weight1(row, k + 3u)),
        vec4<f32>(weight1(row, k + 4u), weight1(row, k + 5u), weight1(row, k + 6u), weight1(row, k + 7u)),
    );
}
