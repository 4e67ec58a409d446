// Steps of the rotation of packed heads in vectors of 4 values: what walsh does in workgroup memory, sum for sum. Needs
// across4 (lanes_*).

// The first two steps of a transform, within 4 values.
fn within4(x: vec4<f32>) -> vec4<f32> {
    let y = vec4<f32>(x.x + x.y, x.x - x.y, x.z + x.w, x.z - x.w);
    return vec4<f32>(y.xy + y.zw, y.xy - y.zw);
}

// One step with the vector of the lane whose number differs by the bit `distance`; all call.
fn step4(lane: u32, x: vec4<f32>, distance: u32) -> vec4<f32> {
    let other = across4(lane, x, distance);
    return other + select(1.0, -1.0, (lane & distance) != 0u) * x;
}
