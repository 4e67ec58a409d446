// y = exp(x - max(x)) / sum(exp(x - max(x))), row by row.
//
// Work split: one workgroup per row, invocations stride over it.
// Parts: sum4, max4 (sum_shared, sum_subgroup).

struct Params { rows: u32, n: u32, stride: u32 }

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

const WG: u32 = 256u;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    // Workgroups past the end do the last row's work again.
    let row = min(group.y * params.stride + group.x, params.rows - 1u);
    let first = row * params.n;
    var greatest = -3.0e38;
    for (var i = lane; i < params.n; i += WG) {
        greatest = max(greatest, x[first + i]);
    }
    greatest = max4(lane, vec4<f32>(greatest)).x;
    var total = 0.0;
    for (var i = lane; i < params.n; i += WG) {
        total += exp(x[first + i] - greatest);
    }
    total = sum4(lane, vec4<f32>(total, 0.0, 0.0, 0.0)).x;
    for (var i = lane; i < params.n; i += WG) {
        y[first + i] = exp(x[first + i] - greatest) / total;
    }
}
