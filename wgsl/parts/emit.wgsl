// What becomes of a product: emit stores column n of row m of the output, emit_gated the gate of one column
// and its partner, n columns of the output further on.
// Parts: bias_at (bias, no_bias), residual_at (residual, no_residual), act (act, which needs erf).

fn emit(m: u32, n: u32, value: f32) {
    let at = m * params.n + n;
    y[at] = residual_at(at) + (value + bias_at(n));
}

fn emit_gated(m: u32, n: u32, gate: f32, up: f32) {
    let at = m * params.n + n;
    y[at] = residual_at(at) + act(gate + bias_at(n)) * (up + bias_at(n + params.n));
}
