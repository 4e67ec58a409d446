// Sums and maxima over a workgroup of WG invocations, through workgroup memory. Every invocation gets the
// result; all must call.

var<workgroup> partial: array<vec4<f32>, WG>;

fn sum4(lane: u32, value: vec4<f32>) -> vec4<f32> {
    workgroupBarrier();
    partial[lane] = value;
    for (var half = WG / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half {
            partial[lane] += partial[lane + half];
        }
    }
    workgroupBarrier();
    return partial[0];
}

fn max4(lane: u32, value: vec4<f32>) -> vec4<f32> {
    workgroupBarrier();
    partial[lane] = value;
    for (var half = WG / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half {
            partial[lane] = max(partial[lane], partial[lane + half]);
        }
    }
    workgroupBarrier();
    return partial[0];
}

// The sum of first values and the greatest of second ones.
fn sum_and_max(lane: u32, value: vec2<f32>) -> vec2<f32> {
    workgroupBarrier();
    partial[lane] = vec4<f32>(value, 0.0, 0.0);
    for (var half = WG / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half {
            let own = partial[lane];
            let other = partial[lane + half];
            partial[lane] = vec4<f32>(own.x + other.x, max(own.y, other.y), 0.0, 0.0);
        }
    }
    workgroupBarrier();
    return partial[0].xy;
}
