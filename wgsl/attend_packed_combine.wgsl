// y = D H x f + c with x = sum_s exp(m_s - m) r_s / sum_s exp(m_s - m) l_s: the splits of attend_packed together, as
// attend_combine adds them, and out of the cache's basis (rotate).
//
// Work split: a workgroup per token and query head. LANES neighbours cover the head's vectors, and turn it by exchange.
// Parts: add_splits (add_splits); within4, step4, signed4 (walsh4 with lanes_*, signs).

struct Params { heads: u32, kv_heads: u32, vectors: u32, tokens: u32, norm: f32 }

@group(0) @binding(0) var<storage, read> partials: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> bases: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;

const WG: u32 = 256u;

// Whether there is a basis.
override BASIS: u32 = 0u;
override LANES: u32 = COLUMNS;

// What is added to vector v of a result, and its factors.
fn basis_at(h: u32, v: u32) -> mat2x4<f32> {
    if BASIS == 0u || v >= params.vectors {
        return mat2x4<f32>(vec4<f32>(), vec4<f32>(1.0));
    }
    let at = (6u * params.kv_heads + h) * params.vectors + v;
    return mat2x4<f32>(bases[at], bases[at + params.kv_heads * params.vectors]);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    // The basis is on its way while splits are added up.
    let basis = basis_at(group.x / (params.heads / params.kv_heads), lane);
    let added = add_splits(group.y, group.x, lane);
    var x = within4(added.sum * (params.norm / added.total));
    let d = 4u * params.vectors;
    let block = d & (~d + 1u);
    for (var distance = 1u; 4u * distance < block; distance *= 2u) {
        x = step4(lane, x, distance);
    }
    if lane < params.vectors {
        y[(group.y * params.heads + group.x) * params.vectors + lane] = signed4(x, 4u * lane) * basis[1] + basis[0];
    }
}
