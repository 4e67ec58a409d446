// y[r] = index of the greatest element of row r, the first of equals.
//
// Work split: one workgroup per row; invocations stride over it, then meet in workgroup memory.
// Parts: logits4 (logits_aligned, logits_odd), likeliest.

var<private> row: u32;

fn four(i: u32) -> vec4<f32> {
    return logits4(row, i);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    // Workgroups past the end do the last row's work again.
    row = min(group.y * params.stride + group.x, params.rows - 1u);
    let best = likeliest(lane, params.n, 0.0);
    if lane == 0u {
        y[row] = best.index;
    }
}
