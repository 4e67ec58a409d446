// y = sum_s exp(m_s - m) r_s / sum_s exp(m_s - m) l_s: the splits of attend together, where split s of a query
// head gave sums r_s, their maximum m_s and the sum l_s of weights, and m is the greatest maximum.
//
// Work split: a workgroup per token and query head. COLUMNS of its 256 invocations cover the head's vectors of 4
// values, and 256 / COLUMNS parts share the splits that had keys; parts meet in workgroup memory.
// Parts: first_key, end_key, share (key_range).

struct Params { heads: u32, vectors: u32, tokens: u32, window: u32 }

@group(0) @binding(0) var<storage, read> partials: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> places: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> table: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;

// Invocations that cover a head's vectors: a power of two, 16 to 64.
override COLUMNS: u32 = 32u;
const WG: u32 = 256u;

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
        let s1 = s + WG / COLUMNS;
        let s2 = s + 2u * WG / COLUMNS;
        let s3 = s + 3u * WG / COLUMNS;
        let e0 = partials[first_edge + s].xy;
        let e1 = partials[first_edge + min(s1, last)].xy;
        let e2 = partials[first_edge + min(s2, last)].xy;
        let e3 = partials[first_edge + min(s3, last)].xy;
        let r0 = partials[(first + s) * params.vectors + inside];
        let r1 = partials[(first + min(s1, last)) * params.vectors + inside];
        let r2 = partials[(first + min(s2, last)) * params.vectors + inside];
        let r3 = partials[(first + min(s3, last)) * params.vectors + inside];
        let next = max(max(greatest, max(e0.x, e1.x)), max(e2.x, e3.x));
        let before = exp(greatest - next);
        var weight = exp(vec4<f32>(e0.x, e1.x, e2.x, e3.x) - next);
        weight *= select(vec4<f32>(0.0), vec4<f32>(1.0), vec4<u32>(s, s1, s2, s3) < vec4<u32>(used));
        sum = before * sum + mat4x4<f32>(r0, r1, r2, r3) * weight;
        total = before * total + dot(weight, vec4<f32>(e0.y, e1.y, e2.y, e3.y));
        greatest = next;
    }
    meeting[lane] = sum;
    if column == 0u {
        edges[part] = vec2<f32>(greatest, total);
    }
    workgroupBarrier();
    if lane >= params.vectors {
        return;
    }
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
    y[row * params.vectors + lane] = sum / total;
}
