// The activation of a gate, ACT: 0 silu, 1 gelu by tanh, 2 gelu.
// Exponents are cut where the result no longer changes, before they overflow.
// Parts: erf.

override ACT: u32 = 0u;

fn act(x: f32) -> f32 {
    if ACT == 0u {
        return x / (1.0 + exp(min(-x, 80.0)));
    }
    if ACT == 1u {
        let inner = 0.7978845608 * (x + 0.044715 * x * x * x);
        return 0.5 * x * (1.0 + tanh(clamp(inner, -20.0, 20.0)));
    }
    return 0.5 * x * (1.0 + erf(x * 0.7071067812));
}
