// The factor of a deferred norm, 1 / root mean square of the row of x that a workgroup of WG invocations has read.
// Needs NORM, params.k, params.eps; sum_lanes (gather). Subgroups are taken to be full and in order of invocations.
var<workgroup> squares: array<f32, 256>;

// Leaves the sum of squares of what each invocation has read; all call, and a barrier follows.
fn note_squares(lane: u32, size: u32, own: f32) {
    if NORM {
        let sum = sum_lanes(own, size);
        if lane % size == 0u {
            squares[lane / size] = sum;
        }
    }
}

// 1 without a norm; all call.
fn norm_factor(lane: u32, size: u32) -> f32 {
    if !NORM {
        return 1.0;
    }
    var total = 0.0;
    let count = WG / size;
    for (var first = 0u; first < count; first += size) {
        let i = first + lane % size;
        total += select(0.0, squares[min(i, count - 1u)], i < count);
    }
    return inverseSqrt(sum_lanes(total, size) / f32(params.k) + params.eps);
}
