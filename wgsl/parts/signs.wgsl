// The fixed signs of packed heads where no basis has them: that of element i of a head is bit 16 of i (i + 1) 0x9e3779b1.

fn sign_of(i: u32) -> f32 {
    return select(1.0, -1.0, ((i * (i + 1u) * 0x9e3779b1u) & 0x10000u) != 0u);
}

fn signs4(i: u32) -> vec4<f32> {
    return vec4<f32>(sign_of(i), sign_of(i + 1u), sign_of(i + 2u), sign_of(i + 3u));
}
