// The factor of a deferred norm, 1 / root mean square of the row of x that a workgroup of WG invocations has read.
// Needs NORM, params.k, params.eps. Subgroups are taken to be full and in order of invocations.
enable subgroups;

var<workgroup> squares: array<f32, 128>;

// Leaves the sum of squares of what each invocation has read; all call, and a barrier follows.
fn note_squares(lane: u32, size: u32, own: f32) {
    if NORM {
        let sum = subgroupAdd(own);
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
    for (var i = lane % size; i < WG / size; i += size) {
        total += squares[i];
    }
    return inverseSqrt(subgroupAdd(total) / f32(params.k) + params.eps);
}
