// The rotation of packed heads that LANES neighbours hold, 8 values each: what walsh does in workgroup memory, sum
// for sum. Needs signed (signs), across4 (lanes_*).

fn alternate(x: vec4<f32>, i: u32) -> vec4<f32> {
    return vec4<f32>(signed(x.x, i), signed(x.y, i + 1u), signed(x.z, i + 2u), signed(x.w, i + 3u));
}

// The first three steps of a transform, within 8 values.
fn within8(x: mat2x4<f32>) -> mat2x4<f32> {
    var a = x[0];
    var b = x[1];
    a = vec4<f32>(a.x + a.y, a.x - a.y, a.z + a.w, a.z - a.w);
    b = vec4<f32>(b.x + b.y, b.x - b.y, b.z + b.w, b.z - b.w);
    a = vec4<f32>(a.xy + a.zw, a.xy - a.zw);
    b = vec4<f32>(b.xy + b.zw, b.xy - b.zw);
    return mat2x4<f32>(a + b, a - b);
}

// H D x of lane c's head; all call.
fn rotated8(lane: u32, c: u32, x: mat2x4<f32>) -> mat2x4<f32> {
    var y = within8(mat2x4<f32>(alternate(x[0], 8u * c), alternate(x[1], 8u * c + 4u)));
    let d = 8u * params.eights;
    let block = d & (~d + 1u);
    for (var distance = 1u; 8u * distance < block; distance *= 2u) {
        let a = across4(lane, y[0], distance);
        let b = across4(lane, y[1], distance);
        let upper = (c & distance) != 0u;
        y = mat2x4<f32>(select(y[0] + a, a - y[0], upper), select(y[1] + b, b - y[1], upper));
    }
    return mat2x4<f32>(y[0] * params.norm, y[1] * params.norm);
}
