// y[m, first + n] = sum_k x[m, k] * W[n, k] (+ bias[first + n]), for M <= 4 rows of x.
//
// Work split: a workgroup takes 4 rows of W; its WG invocations stride over k in units of 8 values, so every
// weight is read once for all rows of x. Sums meet at the end. Larger workgroups make shorter loops, which few
// rows need on a large GPU (`Linear::lanes` chooses).
// Best, on an H200, GB/s of weights: 128256x2048 bf16 4389, 8 bit 3136, 4 bit 1737; 4096x4096 3084, 1631, 1019.
// Parts: x8 and dot8 (x_aligned, x_odd), code8 and scaled (weight_*, dense or affine), sum4 (sum_shared,
// sum_subgroup), widen (floats). Bindings are declared by the op: they differ with the weight's format.
// Best on an NVIDIA H200 for one row of x, without the 5.5 us of a timestamp: bf16 4.4 TB/s (128256 x 2048) and
// 3.8 (4096 x 14336); 8 bits 3.5 and 2.1; 4 bits 1.7 and 1.3.

override M: u32 = 1u;
override WG: u32 = 64u;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first = (group.y * params.stride + group.x) * 4u;
    let last = params.rows - 1u;
    let row = min(vec4<u32>(first, first + 1u, first + 2u, first + 3u), vec4<u32>(last));
    var y0 = vec4<f32>(0.0);
    var y1 = vec4<f32>(0.0);
    var y2 = vec4<f32>(0.0);
    var y3 = vec4<f32>(0.0);
    for (var i = lane; i < params.units; i += WG) {
        let a = code8(row.x, i);
        let b = code8(row.y, i);
        let c = code8(row.z, i);
        let d = code8(row.w, i);
        let x = x8(0u, i);
        y0 += scaled(vec4<f32>(dot8(a, x), dot8(b, x), dot8(c, x), dot8(d, x)), sum8(x), row, i);
        if M > 1u {
            let x = x8(1u, i);
            y1 += scaled(vec4<f32>(dot8(a, x), dot8(b, x), dot8(c, x), dot8(d, x)), sum8(x), row, i);
        }
        if M > 2u {
            let x = x8(2u, i);
            y2 += scaled(vec4<f32>(dot8(a, x), dot8(b, x), dot8(c, x), dot8(d, x)), sum8(x), row, i);
        }
        if M > 3u {
            let x = x8(3u, i);
            y3 += scaled(vec4<f32>(dot8(a, x), dot8(b, x), dot8(c, x), dot8(d, x)), sum8(x), row, i);
        }
    }
    y0 = sum4(lane, y0);
    store(0u, first, lane, y0);
    if M > 1u {
        y1 = sum4(lane, y1);
        store(1u, first, lane, y1);
    }
    if M > 2u {
        y2 = sum4(lane, y2);
        store(2u, first, lane, y2);
    }
    if M > 3u {
        y3 = sum4(lane, y3);
        store(3u, first, lane, y3);
    }
}

// The first four invocations store one row of W each.
fn store(m: u32, first: u32, lane: u32, sums: vec4<f32>) {
    let n = first + lane;
    if lane < 4u && n < params.rows {
        let value = select(select(sums.x, sums.y, lane == 1u), select(sums.z, sums.w, lane == 3u), lane > 1u);
        y[m * params.n + params.first_row + n] = value + bias_at(params.first_row + n);
    }
}
