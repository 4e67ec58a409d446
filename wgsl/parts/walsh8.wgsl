// The rotation of packed heads that LANES neighbours hold, 8 values each. Needs within4, step4 (walsh4).

// H x of lane c's head but for the factor that leaves its length as it is, params.norm; all call.
fn transformed8(lane: u32, x: mat2x4<f32>) -> mat2x4<f32> {
    let a = within4(x[0]);
    let b = within4(x[1]);
    var y = mat2x4<f32>(a + b, a - b);
    let d = 8u * params.eights;
    let block = d & (~d + 1u);
    for (var distance = 1u; 8u * distance < block; distance *= 2u) {
        y = mat2x4<f32>(step4(lane, y[0], distance), step4(lane, y[1], distance));
    }
    return y;
}

fn rotated8(lane: u32, x: mat2x4<f32>) -> mat2x4<f32> {
    let y = transformed8(lane, x);
    return mat2x4<f32>(y[0] * params.norm, y[1] * params.norm);
}
