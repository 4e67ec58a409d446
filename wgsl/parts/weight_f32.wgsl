// 8 values of row `row` from k = 8 i on, f32; rows are whole units of 8.

alias Raw8 = mat2x4<f32>;

fn raw8(row: u32, i: u32) -> Raw8 {
    let at = (row * params.units + i) * 2u;
    return Raw8(weight[at], weight[at + 1u]);
}

fn unpack8(w: Raw8) -> mat2x4<f32> {
    return w;
}

fn code8(row: u32, i: u32) -> mat2x4<f32> {
    return raw8(row, i);
}
