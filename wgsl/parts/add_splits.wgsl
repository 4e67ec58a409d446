// The splits of attend or attend_packed of one query head together: COLUMNS of WG invocations cover the head's vectors of
// 4 values, and WG / COLUMNS parts share the splits that had keys; parts meet in workgroup memory.
// Needs partials, places, params; first_key, end_key, share (key_range).

// Invocations that cover a head's vectors: a power of two, 16 to 64.
override COLUMNS: u32 = 32u;

var<workgroup> meeting: array<vec4<f32>, WG>;
var<workgroup> edges: array<vec2<f32>, 16>;

// Sums of values times weights, and of weights.
struct Added { sum: vec4<f32>, total: f32 }

// All call; vector `lane` of head `head` of a token, where the head has one.
fn add_splits(token: u32, head: u32, lane: u32) -> Added {
    let splits = arrayLength(&partials) / (params.tokens * params.heads * (params.vectors + 1u));
    let here = places[token];
    let keys = end_key(here) - first_key(here);
    let size = share(keys, splits);
    let used = (keys + size - 1u) / size + select(1u, 0u, splits == 1u);
    let first = (token * params.heads + head) * splits;
    let first_edge = params.tokens * params.heads * splits * params.vectors + first;
    let column = lane % COLUMNS;
    let part = lane / COLUMNS;
    var greatest = -3.0e38;
    var total = 0.0;
    var sum = vec4<f32>(0.0);
    let inside = min(column, params.vectors - 1u);
    // Four at a time: their loads do not wait for each other.
    for (var s = part; s < used; s += 4u * WG / COLUMNS) {
        let at = vec4<u32>(s) + vec4<u32>(0u, 1u, 2u, 3u) * (WG / COLUMNS);
        let clamped = min(at, vec4<u32>(used - 1u));
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
    var result = Added();
    if lane >= params.vectors {
        return result;
    }
    for (var i = 0u; i < WG / COLUMNS; i++) {
        greatest = max(greatest, edges[i].x);
    }
    for (var i = 0u; i < WG / COLUMNS; i++) {
        let weight = exp(edges[i].x - greatest);
        result.total += weight * edges[i].y;
        result.sum += weight * meeting[i * COLUMNS + lane];
    }
    return result;
}
