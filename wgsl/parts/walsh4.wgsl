// Steps of the rotation of packed heads in vectors of 4 values: what walsh does in workgroup memory, sum for sum. Needs
// signed (signs), across4 (lanes_*).

// Values from the i-th of a head on with their signs.
fn signed4(x: vec4<f32>, i: u32) -> vec4<f32> {
    return vec4<f32>(signed(x.x, i), signed(x.y, i + 1u), signed(x.z, i + 2u), signed(x.w, i + 3u));
}

// The first two steps of a transform, within 4 values.
fn within4(x: vec4<f32>) -> vec4<f32> {
    let y = vec4<f32>(x.x + x.y, x.x - x.y, x.z + x.w, x.z - x.w);
    return vec4<f32>(y.xy + y.zw, y.xy - y.zw);
}

// One step with the vector of the lane whose number differs by the bit `distance`; all call.
fn step4(lane: u32, x: vec4<f32>, distance: u32) -> vec4<f32> {
    let other = across4(lane, x, distance);
    return select(x + other, other - x, (lane & distance) != 0u);
}
