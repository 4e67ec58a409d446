// y = D H x f + c with x = sum_s exp(m_s - m) r_s / sum_s exp(m_s - m) l_s: the splits of attend_packed together, as
// attend_combine adds them, and out of the cache's basis (rotate).
//
// Work split: a workgroup per token and query head. COLUMNS of its 128 invocations cover the head's vectors of 4
// values, and 128 / COLUMNS parts share the splits that had keys; parts meet in workgroup memory.
// Parts: first_key, end_key, share (key_range); walsh (walsh), signed (signs).

struct Params {
    heads: u32, kv_heads: u32, vectors: u32, tokens: u32, window: u32, norm: f32,
}

@group(0) @binding(0) var<storage, read> partials: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> places: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> table: array<u32>;
@group(0) @binding(3) var<storage, read> bases: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

// Invocations that cover a head's vectors: a power of two, 16 to 64.
override COLUMNS: u32 = 32u;
// Whether there is a basis.
override BASIS: u32 = 0u;

var<workgroup> meeting: array<vec4<f32>, WG>;
var<workgroup> edges: array<vec2<f32>, 16>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let splits = arrayLength(&partials) / (params.tokens * params.heads * (params.vectors + 1u));
    let here = places[group.y];
    let keys = end_key(here) - first_key(here);
    let size = share(keys, splits);
    let used = (keys + size - 1u) / size;
    let row = group.y * params.heads + group.x;
    let first = row * splits;
    let first_edge = params.tokens * params.heads * splits * params.vectors + first;
    let column = lane % COLUMNS;
    let part = lane / COLUMNS;
    var greatest = -3.0e38;
    var total = 0.0;
    var sum = vec4<f32>(0.0);
    let last = used - 1u;
    let inside = min(column, params.vectors - 1u);
    // Four at a time: their loads do not wait for each other.
    for (var s = part; s < used; s += 4u * WG / COLUMNS) {
        let at = vec4<u32>(s) + vec4<u32>(0u, 1u, 2u, 3u) * (WG / COLUMNS);
        let clamped = min(at, vec4<u32>(last));
        let e0 = partials[first_edge + clamped.x].xy;
        let e1 = partials[first_edge + clamped.y].xy;
        let e2 = partials[first_edge + clamped.z].xy;
        let e3 = partials[first_edge + clamped.w].xy;
        let r0 = partials[(first + clamped.x) * params.vectors + inside];
        let r1 = partials[(first + clamped.y) * params.vectors + inside];
        let r2 = partials[(first + clamped.z) * params.vectors + inside];
        let r3 = partials[(first + clamped.w) * params.vectors + inside];
        let next = max(max(greatest, max(e0.x, e1.x)), max(e2.x, e3.x));
        let before = exp(greatest - next);
        var weight = exp(vec4<f32>(e0.x, e1.x, e2.x, e3.x) - next);
        weight *= select(vec4<f32>(0.0), vec4<f32>(1.0), at < vec4<u32>(used));
        sum = before * sum + mat4x4<f32>(r0, r1, r2, r3) * weight;
        total = before * total + dot(weight, vec4<f32>(e0.y, e1.y, e2.y, e3.y));
        greatest = next;
    }
    meeting[lane] = sum;
    if column == 0u {
        edges[part] = vec2<f32>(greatest, total);
    }
    workgroupBarrier();
    if lane < params.vectors {
        for (var i = 0u; i < WG / COLUMNS; i++) {
            greatest = max(greatest, edges[i].x);
        }
        sum = vec4<f32>(0.0);
        total = 0.0;
        for (var i = 0u; i < WG / COLUMNS; i++) {
            let weight = exp(edges[i].x - greatest);
            total += weight * edges[i].y;
            sum += weight * meeting[i * COLUMNS + lane];
        }
        sum *= params.norm / total;
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
