// Logits: logits4(row, i) is 4 values of a row from element 4 i on. Rows are whole units of 4.

fn logits4(row: u32, i: u32) -> vec4<f32> {
    return logits[row * (params.n / 4u) + i];
}
