// The splits of attend or attend_packed of one query head together: COLUMNS of WG invocations cover the head's vectors of
// 4 values, and WG / COLUMNS parts share the splits, those that had no keys as well: their weights are none, and who asks
// where the keys end waits longer than for all splits. Parts meet in workgroup memory.
// Needs partials, params.

// Invocations that cover a head's vectors: a power of two, 16 to 64.
override COLUMNS: u32 = 32u;

// The level of a split that is none or has no keys, and one below which no level lies that counts.
const NOTHING: f32 = -3.3e38;
const LEAST: f32 = -3.0e38;

var<workgroup> meeting: array<vec4<f32>, WG>;
var<workgroup> edges: array<vec2<f32>, 16>;

// Sums of values times weights, and of weights.
struct Added { sum: vec4<f32>, total: f32 }

// Four splits: a vector of each one's sums, what its weights are relative to, and their sum.
struct Four { sums: mat4x4<f32>, levels: vec4<f32>, totals: vec4<f32> }

// Those at `at`, of `splits` whose sums begin at row `first` and whose edges at `edge`; past the last, nothing.
fn four(at: vec4<u32>, splits: u32, first: u32, edge: u32, column: u32) -> Four {
    let own = min(at, vec4<u32>(splits - 1u));
    let a = partials[edge + own.x].xy;
    let b = partials[edge + own.y].xy;
    let c = partials[edge + own.z].xy;
    let d = partials[edge + own.w].xy;
    let sums = mat4x4<f32>(
        partials[(first + own.x) * params.vectors + column],
        partials[(first + own.y) * params.vectors + column],
        partials[(first + own.z) * params.vectors + column],
        partials[(first + own.w) * params.vectors + column],
    );
    let levels = select(vec4<f32>(NOTHING), vec4<f32>(a.x, b.x, c.x, d.x), at < vec4<u32>(splits));
    return Four(sums, levels, vec4<f32>(a.y, b.y, c.y, d.y));
}

// All call; vector `lane` of head `head` of a token, where the head has one.
fn add_splits(token: u32, head: u32, lane: u32) -> Added {
    let splits = arrayLength(&partials) / (params.tokens * params.heads * (params.vectors + 1u));
    let first = (token * params.heads + head) * splits;
    let edge = params.tokens * params.heads * splits * params.vectors + first;
    let column = min(lane % COLUMNS, params.vectors - 1u);
    let part = lane / COLUMNS;
    var greatest = LEAST;
    var total = 0.0;
    var sum = vec4<f32>(0.0);
    // Eight at a time: their loads do not wait for each other.
    for (var s = part; s < splits; s += 8u * WG / COLUMNS) {
        let at = vec4<u32>(s) + vec4<u32>(0u, 1u, 2u, 3u) * (WG / COLUMNS);
        let near = four(at, splits, first, edge, column);
        let far = four(at + vec4<u32>(4u * WG / COLUMNS), splits, first, edge, column);
        let most = max(near.levels, far.levels);
        let next = max(max(greatest, max(most.x, most.y)), max(most.z, most.w));
        let before = exp(greatest - next);
        let a = exp(near.levels - next);
        let b = exp(far.levels - next);
        sum = before * sum + near.sums * a + far.sums * b;
        total = before * total + dot(a, near.totals) + dot(b, far.totals);
        greatest = next;
    }
    meeting[lane] = sum;
    if lane % COLUMNS == 0u {
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
