// What becomes of a sum: the bias is added, and it is stored.

fn emit(m: u32, n: u32, value: f32) {
    y[m * params.n + n] = value + bias_at(n);
}
