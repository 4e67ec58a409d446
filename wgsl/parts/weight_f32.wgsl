// 8 values of row `row` from k = 8 i on, f32; rows are whole units of 8.

fn code8(row: u32, i: u32) -> mat2x4<f32> {
    let at = (row * params.units + i) * 2u;
    return mat2x4<f32>(weight[at], weight[at + 1u]);
}
