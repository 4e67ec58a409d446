// y = x / sqrt(mean(x^2) + eps) * w, row by row.
//
// Work split: one workgroup per row, invocations stride over it.
// Parts: sum4 (sum_shared, sum_subgroup), widen (floats).

struct Params { rows: u32, n: u32, stride: u32, eps: f32 }

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> w: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

override KIND: u32 = 0u;
const WG: u32 = 256u;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    // Workgroups past the end do the last row's work again.
    let row = min(group.y * params.stride + group.x, params.rows - 1u);
    let first = row * params.n;
    var squares = 0.0;
    for (var i = lane; i < params.n; i += WG) {
        let value = x[first + i];
        squares += value * value;
    }
    let mean = sum4(lane, vec4<f32>(squares, 0.0, 0.0, 0.0)).x / f32(params.n);
    let scale = inverseSqrt(mean + params.eps);
    for (var i = lane; i < params.n; i += WG) {
        y[first + i] = x[first + i] * scale * widen(KIND, w[place(KIND, i)], i);
    }
}
