// The fixed signs of packed heads: x or -x, by element i of a head.

fn signed(x: f32, i: u32) -> f32 {
    return select(x, -x, (((i * (i + 1u) * 0x9e3779b1u) >> 16u) & 1u) == 1u);
}
