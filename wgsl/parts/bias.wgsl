// The bias of a linear layer, of kind BIAS (see floats).

override BIAS: u32 = 9u;

fn bias_at(n: u32) -> f32 {
    return widen(BIAS, bias[place(BIAS, n)], n);
}
