// What over_keys does with sums of values. Needs Sums (by_floats, by_integers).

// Sums with one value more, and these weights of it.
fn with_value(before: Sums, weights: vec4<f32>, value: mat2x4<f32>) -> Sums {
    var x = before;
    x.a += weights.x * value;
    x.b += weights.y * value;
    x.c += weights.z * value;
    x.d += weights.w * value;
    return x;
}

// Sums by a factor for each head.
fn rescaled(before: Sums, by: vec4<f32>) -> Sums {
    var x = before;
    x.a *= by.x;
    x.b *= by.y;
    x.c *= by.z;
    x.d *= by.w;
    return x;
}
