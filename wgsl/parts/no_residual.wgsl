// No residual is added.

fn residual_at(at: u32) -> f32 {
    return 0.0;
}
