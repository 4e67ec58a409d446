// Sums over a unit of 8 values.

fn dot8(a: mat2x4<f32>, b: mat2x4<f32>) -> f32 {
    return dot(a[0], b[0]) + dot(a[1], b[1]);
}

fn sum8(x: mat2x4<f32>) -> f32 {
    return dot(x[0] + x[1], vec4<f32>(1.0));
}
