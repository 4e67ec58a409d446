// y = H D x for each head, or D H x if INVERSE: fixed signs D, normalised Walsh-Hadamard transforms H.
//
// Work split: a workgroup takes two heads.
// Parts: signed, walsh (walsh).

struct Params { heads: u32, d: u32, stride: u32, norm: f32 }

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

override INVERSE: u32 = 0u;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first = 2u * (group.y * params.stride + group.x);
    if first >= params.heads {
        return;
    }
    let d = params.d;
    let size = min(2u, params.heads - first) * d;
    for (var i = lane; i < size; i += WG) {
        let value = x[first * d + i];
        values[i] = select(signed(value, i % d), value, INVERSE == 1u);
    }
    walsh(lane, size, d);
    for (var i = lane; i < size; i += WG) {
        let value = values[i] * params.norm;
        y[first * d + i] = select(value, signed(value, i % d), INVERSE == 1u);
    }
}
