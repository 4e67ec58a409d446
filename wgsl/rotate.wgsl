// y = H (x f) for each head, or H x f if INVERSE: normalised Walsh-Hadamard transforms H, factors f of the key head that it
// belongs to, or the fixed signs if there is no basis.
//
// Work split: a workgroup takes two heads.
// Parts: sign_of (signs), walsh (walsh).

struct Params { heads: u32, own_heads: u32, kv_heads: u32, d: u32, stride: u32, norm: f32 }

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> basis: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

override INVERSE: u32 = 0u;
override BASIS: u32 = 0u;
// The basis's row of factors.
override ROW: u32 = 0u;

// The factor of value i of the heads' list.
fn factor_of(i: u32) -> f32 {
    if BASIS == 0u {
        return sign_of(i % params.d);
    }
    let head = (i / params.d) % params.own_heads / (params.own_heads / params.kv_heads);
    return basis[(ROW * params.kv_heads + head) * params.d + i % params.d];
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first = 2u * (group.y * params.stride + group.x);
    if first >= params.heads {
        return;
    }
    let d = params.d;
    let size = min(2u, params.heads - first) * d;
    for (var i = lane; i < size; i += WG) {
        values[i] = x[first * d + i];
        if INVERSE == 0u {
            values[i] *= factor_of(first * d + i);
        }
    }
    walsh(lane, size, d);
    for (var i = lane; i < size; i += WG) {
        var value = values[i] * params.norm;
        if INVERSE == 1u {
            value *= factor_of(first * d + i);
        }
        y[first * d + i] = value;
    }
}
