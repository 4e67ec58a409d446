// A residual that is added to the result.

fn residual_at(at: u32) -> f32 {
    return residual[at];
}
