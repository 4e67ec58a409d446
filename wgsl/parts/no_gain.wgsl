// No norm, no gain.

fn gain8(i: u32) -> mat2x4<f32> {
    return mat2x4<f32>(vec4<f32>(1.0), vec4<f32>(1.0));
}
