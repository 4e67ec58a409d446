// y[r] = index of the greatest element of row r, the first of equals.
//
// Work split: one workgroup per row; invocations stride over it, then meet in workgroup memory.

struct Params { rows: u32, n: u32, stride: u32 }

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@group(0) @binding(2) var<uniform> params: Params;

const WG: u32 = 256u;

var<workgroup> values: array<f32, WG>;
var<workgroup> indices: array<u32, WG>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    // Workgroups past the end do the last row's work again.
    let row = min(group.y * params.stride + group.x, params.rows - 1u);
    var value = x[row * params.n + min(lane, params.n - 1u)];
    var index = min(lane, params.n - 1u);
    for (var i = lane + WG; i < params.n; i += WG) {
        let other = x[row * params.n + i];
        if other > value {
            value = other;
            index = i;
        }
    }
    values[lane] = value;
    indices[lane] = index;
    for (var half = WG / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half {
            let other = values[lane + half];
            let at = indices[lane + half];
            if other > values[lane] || (other == values[lane] && at < indices[lane]) {
                values[lane] = other;
                indices[lane] = at;
            }
        }
    }
    if lane == 0u {
        y[row] = indices[0];
    }
}
