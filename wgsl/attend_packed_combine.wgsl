// y = H x f with x = sum_s exp(m_s - m) r_s / sum_s exp(m_s - m) l_s: the splits of attend_packed together, as
// attend_combine adds them, and out of the cache's basis (rotate).
//
// Work split: a workgroup per token and query head. LANES neighbours cover the head's vectors, and turn it by exchange.
// Parts: add_splits (add_splits); within4, step4 (walsh4 with lanes_*); signs4 (signs).

struct Params { heads: u32, kv_heads: u32, vectors: u32, tokens: u32, norm: f32 }

@group(0) @binding(0) var<storage, read> partials: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> bases: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;

const WG: u32 = 256u;

// Whether there is a basis.
override BASIS: u32 = 0u;
override LANES: u32 = COLUMNS;
// The basis's row of factors of results.
const RESULTS: u32 = 4u;

// The factors of vector v of a result.
fn factors_of(h: u32, v: u32) -> vec4<f32> {
    if BASIS == 0u {
        return signs4(4u * v);
    }
    return bases[(RESULTS * params.kv_heads + h) * params.vectors + min(v, params.vectors - 1u)];
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    // They are on their way while splits are added up.
    let factors = factors_of(group.x / (params.heads / params.kv_heads), lane);
    let added = add_splits(group.y, group.x, lane);
    var x = within4(added.sum * (params.norm / added.total));
    let d = 4u * params.vectors;
    let block = d & (~d + 1u);
    for (var distance = 1u; 4u * distance < block; distance *= 2u) {
        x = step4(lane, x, distance);
    }
    if lane < params.vectors {
        y[(group.y * params.heads + group.x) * params.vectors + lane] = x * factors;
    }
}
