// What becomes of a product: emit stores column n of row m of the output, emit_gated the gate of one column
// and its partner, n columns of the output further on. What is added to a plain result can be fetched before
// it is known (before), so that nothing waits for it.
// Parts: bias_at (bias, no_bias), residual_at (residual, no_residual), act (act, which needs erf).

fn before(m: u32, n: u32) -> f32 {
    return residual_at(m * params.n + n) + bias_at(n);
}

fn emit(m: u32, n: u32, value: f32) {
    y[m * params.n + n] = value + before(m, n);
}

fn emit_gated(m: u32, n: u32, gate: f32, up: f32) {
    let at = m * params.n + n;
    y[at] = residual_at(at) + act(gate + bias_at(n)) * (up + bias_at(n + params.n));
}
