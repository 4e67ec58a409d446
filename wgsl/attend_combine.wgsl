// y = sum_s exp(m_s - m) r_s / sum_s exp(m_s - m) l_s: the splits of attend together, where split s of a query
// head gave sums r_s, their maximum m_s and the sum l_s of weights, and m is the greatest maximum.
//
// Work split: a workgroup per token and query head.
// Parts: add_splits (add_splits).

struct Params { heads: u32, vectors: u32, tokens: u32 }

@group(0) @binding(0) var<storage, read> partials: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;

const WG: u32 = 256u;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let added = add_splits(group.y, group.x, lane);
    if lane < params.vectors {
        y[(group.y * params.heads + group.x) * params.vectors + lane] = added.sum / added.total;
    }
}
