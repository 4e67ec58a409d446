// y = D H x f + c with x = sum_s exp(m_s - m) r_s / sum_s exp(m_s - m) l_s: the splits of attend_packed together, as
// attend_combine adds them, and out of the cache's basis (rotate).
//
// Work split: a workgroup per token and query head.
// Parts: add_splits (add_splits, which needs key_range); walsh (walsh), signed (signs).

struct Params {
    heads: u32, kv_heads: u32, vectors: u32, tokens: u32, window: u32, norm: f32,
}

@group(0) @binding(0) var<storage, read> partials: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> places: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> table: array<u32>;
@group(0) @binding(3) var<storage, read> bases: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

// Whether there is a basis.
override BASIS: u32 = 0u;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let added = add_splits(group.y, group.x, lane);
    let row = group.y * params.heads + group.x;
    if lane < params.vectors {
        let sum = added.sum * (params.norm / added.total);
        values[4u * lane] = sum.x;
        values[4u * lane + 1u] = sum.y;
        values[4u * lane + 2u] = sum.z;
        values[4u * lane + 3u] = sum.w;
    }
    let d = 4u * params.vectors;
    walsh(lane, d, d);
    let h = group.x / (params.heads / params.kv_heads);
    for (var i = lane; i < d; i += WG) {
        var result = signed(values[i], i);
        if BASIS == 1u {
            let at = (6u * params.kv_heads + h) * d + i;
            result = result * bases[at + params.kv_heads * d] + bases[at];
        }
        y[row * d + i] = result;
    }
}
