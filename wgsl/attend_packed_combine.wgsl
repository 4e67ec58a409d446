// y = D H x f + c with x = sum_s exp(m_s - m) r_s / sum_s exp(m_s - m) l_s: the splits of attend_packed together, as
// attend_combine adds them, and out of the cache's basis (rotate).
//
// Work split: a workgroup per token and query head.
// Parts: add_splits (add_splits); walsh (walsh), signed (signs).

struct Params { heads: u32, kv_heads: u32, vectors: u32, tokens: u32, norm: f32 }

@group(0) @binding(0) var<storage, read> partials: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> bases: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

// Whether there is a basis.
override BASIS: u32 = 0u;

// What is added to value i of a result, and its factor.
fn basis_at(h: u32, i: u32, d: u32) -> vec2<f32> {
    if BASIS == 0u || i >= d {
        return vec2<f32>(0.0, 1.0);
    }
    let at = (6u * params.kv_heads + h) * d + i;
    return vec2<f32>(bases[at], bases[at + params.kv_heads * d]);
}

// The first two steps of the transform.
fn within4(x: vec4<f32>) -> vec4<f32> {
    let y = vec4<f32>(x.x + x.y, x.x - x.y, x.z + x.w, x.z - x.w);
    return vec4<f32>(y.xy + y.zw, y.xy - y.zw);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    // A head has 256 values at most, which is WG. Their basis is on its way while splits are added up.
    let d = 4u * params.vectors;
    let basis = basis_at(group.x / (params.heads / params.kv_heads), lane, d);
    let added = add_splits(group.y, group.x, lane);
    let row = group.y * params.heads + group.x;
    if lane < params.vectors {
        let sum = within4(added.sum * (params.norm / added.total));
        values[4u * lane] = sum.x;
        values[4u * lane + 1u] = sum.y;
        values[4u * lane + 2u] = sum.z;
        values[4u * lane + 3u] = sum.w;
    }
    walsh(lane, 4u, d, d);
    if lane < d {
        y[row * d + lane] = signed(values[lane], lane) * basis.y + basis.x;
    }
}
