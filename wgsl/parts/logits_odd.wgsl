// Logits: logits4(row, i) is 4 values of a row from element 4 i on, "nothing" past the end of the row.

fn logits1(row: u32, at: u32) -> f32 {
    if at < params.n {
        return logits[row * params.n + at];
    }
    return NOTHING;
}

fn logits4(row: u32, i: u32) -> vec4<f32> {
    let at = 4u * i;
    return vec4<f32>(logits1(row, at), logits1(row, at + 1u), logits1(row, at + 2u), logits1(row, at + 3u));
}
