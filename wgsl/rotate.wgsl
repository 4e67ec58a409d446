// y = H D ((x - c) f) for each head, or D H x f + c if INVERSE: fixed signs D, normalised Walsh-Hadamard
// transforms H, centres c and factors f of the key head that it belongs to, if there is such a basis.
//
// Work split: a workgroup takes two heads.
// Parts: signed (signs), walsh (walsh).

struct Params { heads: u32, own_heads: u32, kv_heads: u32, d: u32, stride: u32, norm: f32 }

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> basis: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

override INVERSE: u32 = 0u;
override BASIS: u32 = 0u;
// The basis's row of centres; the next one is of factors.
override ROW: u32 = 0u;

// Centre and factor of value i of the heads' list.
fn basis_of(i: u32) -> vec2<f32> {
    if BASIS == 0u {
        return vec2<f32>(0.0, 1.0);
    }
    let head = (i / params.d) % params.own_heads / (params.own_heads / params.kv_heads);
    let at = (ROW * params.kv_heads + head) * params.d + i % params.d;
    return vec2<f32>(basis[at], basis[params.kv_heads * params.d + at]);
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
        let value = x[first * d + i];
        if INVERSE == 1u {
            values[i] = value;
        } else {
            let own = basis_of(first * d + i);
            values[i] = signed((value - own.x) * own.y, i % d);
        }
    }
    walsh(lane, size, d);
    for (var i = lane; i < size; i += WG) {
        let value = values[i] * params.norm;
        if INVERSE == 1u {
            let own = basis_of(first * d + i);
            y[first * d + i] = signed(value, i % d) * own.y + own.x;
        } else {
            y[first * d + i] = value;
        }
    }
}
