// y[m, first + n] = sum_k x[m, k] * W[n, k] (+ bias[first + n]), for many rows of x.
//
// Work split: a workgroup of 256 makes a tile of 64 x 64 outputs, an invocation 4 x 4 of it (rows and
// columns 16 apart). Tiles of 16 values of k pass through workgroup memory, weights widened on the way.
// Rows there are 5 vectors apart, not 4, so that neighbours fall into different banks.
// Parts: x8 (x_aligned, x_odd), weight8 (weight_*, dense or affine), emit, widen (floats). Bindings are declared
// by the op: they differ with the weight's format.
// Best: 23 TFLOP/s over all products of a Llama-3.2-1B shape, prompt of 512, on an H200.

override GATED: bool = false;
const PITCH: u32 = 5u;

var<workgroup> tile_x: array<vec4<f32>, 320>;
var<workgroup> tile_w: array<vec4<f32>, 320>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = (lane & 127u) >> 1u;
    let unit = lane & 1u;
    let m = min(group.y * 64u + row, params.m - 1u);
    // Gated: 32 columns and their 32 partners.
    let gated = group.x * 32u + (row & 31u) + select(0u, params.rows / 2u, row >= 32u);
    let n = min(select(group.x * 64u + row, gated, GATED), params.rows - 1u);
    let at = row * PITCH + unit * 2u;
    let mine_x = (lane >> 4u) * PITCH;
    let mine_w = (lane & 15u) * PITCH;
    var y0 = vec4<f32>(0.0);
    var y1 = vec4<f32>(0.0);
    var y2 = vec4<f32>(0.0);
    var y3 = vec4<f32>(0.0);
    for (var first = 0u; first < params.units; first += 2u) {
        let i = first + unit;
        var values = mat2x4<f32>(vec4<f32>(0.0), vec4<f32>(0.0));
        if i < params.units {
            if lane < 128u {
                values = x8(m, i);
            } else {
                values = weight8(n, i);
            }
        }
        workgroupBarrier();
        if lane < 128u {
            tile_x[at] = values[0];
            tile_x[at + 1u] = values[1];
        } else {
            tile_w[at] = values[0];
            tile_w[at + 1u] = values[1];
        }
        workgroupBarrier();
        for (var k = 0u; k < 4u; k++) {
            let a = tile_w[mine_w + k];
            let b = tile_w[mine_w + 16u * PITCH + k];
            let c = tile_w[mine_w + 32u * PITCH + k];
            let d = tile_w[mine_w + 48u * PITCH + k];
            let x0 = tile_x[mine_x + k];
            y0 += vec4<f32>(dot(x0, a), dot(x0, b), dot(x0, c), dot(x0, d));
            let x1 = tile_x[mine_x + 16u * PITCH + k];
            y1 += vec4<f32>(dot(x1, a), dot(x1, b), dot(x1, c), dot(x1, d));
            let x2 = tile_x[mine_x + 32u * PITCH + k];
            y2 += vec4<f32>(dot(x2, a), dot(x2, b), dot(x2, c), dot(x2, d));
            let x3 = tile_x[mine_x + 48u * PITCH + k];
            y3 += vec4<f32>(dot(x3, a), dot(x3, b), dot(x3, c), dot(x3, d));
        }
    }
    let to_m = group.y * 64u + (lane >> 4u);
    let to_n = group.x * select(64u, 32u, GATED) + (lane & 15u);
    store_row(to_m, to_n, y0);
    store_row(to_m + 16u, to_n, y1);
    store_row(to_m + 32u, to_n, y2);
    store_row(to_m + 48u, to_n, y3);
}

fn store_row(m: u32, n: u32, values: vec4<f32>) {
    if m >= params.m {
        return;
    }
    if GATED {
        store_gated(m, n, values.x, values.z);
        store_gated(m, n + 16u, values.y, values.w);
        return;
    }
    store(m, n, values.x);
    store(m, n + 16u, values.y);
    store(m, n + 32u, values.z);
    store(m, n + 48u, values.w);
}

fn store(m: u32, n: u32, value: f32) {
    if n < params.rows {
        emit(m, params.first_row + n, value);
    }
}

fn store_gated(m: u32, n: u32, gate: f32, up: f32) {
    if n < params.n {
        emit_gated(m, n, gate, up);
    }
}
