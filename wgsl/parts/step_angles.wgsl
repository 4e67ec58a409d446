// Angles of all tokens of a step, by which heads turn. Needs places, inv_freq; angles (heads8); cos_sin_of_place (angle);
// TOKENS, WG (found).

// The frequency of an invocation's first angle.
fn own_frequency(lane: u32) -> f32 {
    return inv_freq[lane % max(params.half, 1u)];
}

// `own` is own_frequency, `here` the place of the only token.
fn make_angles(lane: u32, here: vec2<u32>, own: f32) {
    for (var i = lane; i < TOKENS * params.half; i += WG) {
        var frequency = own;
        if i > lane {
            frequency = inv_freq[i % params.half];
        }
        var position = here.x;
        if TOKENS > 1u {
            position = places[i / params.half].x;
        }
        angles[i] = params.rope_scale * cos_sin_of_place(f32(position) * frequency);
    }
}
