// Attention of few queries: softmax(scale q k^T) v over the keys that a query sees, split among workgroups.
//
// Work split: workgroup (head, split, query). The rows from the window's start to the query's own are
// divided evenly among the splits, so the grid does not depend on positions; splits without keys leave
// at once. 128 invocations take 128 keys at a time, one score each; then LANES invocations cover the head's
// vectors of 4 values and 128 / LANES groups of them share the keys. Maximum, sum and result are carried
// from tile to tile and rescaled (online softmax).
// With one split the result is y, else per split `d` sums, then the maximum, then the sum of weights, for
// attention_combine.
// Parts: pages_of, row_in (two_pages), key4, value4 (cache_*), key_scale, value_scale (cache_packed, unscaled), sum4, max4 (sum_shared, sum_subgroup). Bindings are declared by the op:
// they differ with the cache's type.

// Invocations that cover a head: its vectors, rounded up to a power of two.
override LANES: u32 = 32u;
override SPLITS: u32 = 1u;
const WG: u32 = 128u;

var<workgroup> query: array<vec4<f32>, 64>;
var<workgroup> weights: array<f32, WG>;
var<workgroup> sums: array<vec4<f32>, WG>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let head = group.x;
    let h = head / (params.heads / params.kv_heads);
    let q_at = (group.z * params.heads + head) * params.d;
    let place = places[group.z];
    let last = min(place.x + place.y, params.rows - 1u);
    let window = select(0u, place.x + 1u - params.window, params.window > 0u && place.x + 1u > params.window);
    let start = min(place.y + window, last);
    let count = last + 1u - start;
    let share = (count + SPLITS - 1u) / SPLITS;
    let first = start + min(group.y * share, count);
    let end = start + min((group.y + 1u) * share, count);

    let to = ((group.z * params.heads + head) * SPLITS + group.y) * (params.d + 2u);
    if first >= end {
        if lane == 0u {
            y[to + params.d] = -3.0e38;
            y[to + params.d + 1u] = 0.0;
        }
        return;
    }

    if lane < params.chunks {
        var value = vec4<f32>(0.0);
        let left = params.d - 4u * lane;
        value.x = q[q_at + 4u * lane];
        if left > 1u { value.y = q[q_at + 4u * lane + 1u]; }
        if left > 2u { value.z = q[q_at + 4u * lane + 2u]; }
        if left > 3u { value.w = q[q_at + 4u * lane + 3u]; }
        query[lane] = value * params.scale;
    }
    workgroupBarrier();

    let c = lane % LANES;
    let part = lane / LANES;
    var greatest = -3.0e38;
    var total = 0.0;
    var result = vec4<f32>(0.0);
    for (var tile = first; tile < end; tile += WG) {
        let j = tile + lane;
        let pages = pages_of(tile, WG, end);
        let row = row_in(pages, tile, j);
        var score = -3.0e38;
        if j < end {
            score = 0.0;
            for (var start = 0u; start < params.chunks; start += SPAN) {
                var sum = 0.0;
                for (var i = start; i < min(start + SPAN, params.chunks); i++) {
                    sum += dot(query[i], key4(h, row, i));
                }
                score += sum * key_scale(h, row, start);
            }
        }
        let before = greatest;
        greatest = max(greatest, max4(lane, vec4<f32>(score)).x);
        let weight = select(0.0, exp(score - greatest), j < end);
        let decay = exp(before - greatest);
        // The barriers of sum4 stand between the last tile's reads of `weights` and this write, and
        // between it and the reads below.
        total = total * decay + sum4(lane, vec4<f32>(weight, 0.0, 0.0, 0.0)).x;
        weights[lane] = weight;
        workgroupBarrier();
        result *= decay;
        if c < params.chunks {
            let keys_here = min(WG, end - tile);
            for (var i = part; i < keys_here; i += WG / LANES) {
                let own = row_in(pages, tile, tile + i);
                result += weights[i] * value_scale(h, own, c) * value4(h, own, c);
            }
        }
    }
    sums[lane] = result;
    workgroupBarrier();
    if lane < params.chunks {
        for (var i = 1u; i < WG / LANES; i++) {
            result += sums[i * LANES + lane];
        }
        if SPLITS == 1u {
            store(q_at, lane, result / total);
        } else {
            store(to, lane, result);
        }
    }
    if SPLITS > 1u && lane == 0u {
        y[to + params.d] = greatest;
        y[to + params.d + 1u] = total;
    }
}

fn store(to: u32, chunk: u32, value: vec4<f32>) {
    let left = params.d - 4u * chunk;
    let at = to + 4u * chunk;
    y[at] = value.x;
    if left > 1u { y[at + 1u] = value.y; }
    if left > 2u { y[at + 2u] = value.z; }
    if left > 3u { y[at + 3u] = value.w; }
}
