// The bias of a linear layer, of kind BIAS (see floats).

fn bias_at(n: u32) -> f32 {
    return widen(BIAS, bias[place(BIAS, n)], n);
}
