// Attention of many queries: softmax(scale q k^T) v over the keys that each query sees.
//
// Work split: a workgroup of 256 takes 16 queries of one head and walks over the keys in tiles of 64. Scores
// of a tile (4 per invocation: query lane / 16, keys lane % 16 + 16 i) are summed over slices of 16 values
// of the head that pass through workgroup memory; weights go to workgroup memory; then invocation
// lane % 16 of a query gathers the values' vectors lane % 16 + 16 i of the head. Maximum and sum of a
// query are carried from tile to tile and rescaled (online softmax).
// Parts: key4, value4 (cache_*), key_scale, value_scale (cache_packed, unscaled). Bindings are declared by the op: they differ with the cache's type.

const TILE: u32 = 64u;
const PITCH: u32 = 5u;

var<workgroup> slice_q: array<vec4<f32>, 80>;
var<workgroup> slice_k: array<vec4<f32>, 320>;
// A query's 64 weights, and one vector of padding.
var<workgroup> weights: array<array<f32, 68>, 16>;
var<workgroup> maxima: array<f32, 256>;
var<workgroup> totals: array<f32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let head = group.x;
    let h = head / (params.heads / params.kv_heads);
    let block = group.y * 16u;
    let row = lane >> 4u;
    let column = lane & 15u;
    let t = min(block + row, params.tokens - 1u);
    let last = last_of(t);
    let start = start_of(t);

    // The keys that any query of the block sees; the same for every invocation.
    var low = params.rows;
    var high = 0u;
    for (var i = 0u; i < 16u; i++) {
        let query = min(block + i, params.tokens - 1u);
        low = min(low, start_of(query));
        high = max(high, last_of(query) + 1u);
    }

    var greatest = -3.0e38;
    var total = 0.0;
    var r0 = vec4<f32>(0.0);
    var r1 = vec4<f32>(0.0);
    var r2 = vec4<f32>(0.0);
    var r3 = vec4<f32>(0.0);
    for (var tile = low; tile < high; tile += TILE) {
        var scores = vec4<f32>(0.0);
        for (var slice = 0u; slice < params.chunks; slice += 4u) {
            workgroupBarrier();
            // 64 keys by 4 vectors, one per invocation; 16 queries by 4 vectors, one for each of 64.
            let chunk = slice + (lane & 3u);
            let j = tile + (lane >> 2u);
            var key = vec4<f32>(0.0);
            if chunk < params.chunks && j < high {
                key = key_scale(h, j, chunk) * key4(h, j, chunk);
            }
            slice_k[(lane >> 2u) * PITCH + (lane & 3u)] = key;
            if lane < 64u {
                slice_q[(lane >> 2u) * PITCH + (lane & 3u)] = query4(min(block + (lane >> 2u), params.tokens - 1u), head, chunk);
            }
            workgroupBarrier();
            for (var i = 0u; i < 4u; i++) {
                let query = slice_q[row * PITCH + i];
                scores += vec4<f32>(
                    dot(query, slice_k[column * PITCH + i]),
                    dot(query, slice_k[(column + 16u) * PITCH + i]),
                    dot(query, slice_k[(column + 32u) * PITCH + i]),
                    dot(query, slice_k[(column + 48u) * PITCH + i]),
                );
            }
        }
        let j = vec4<u32>(tile + column) + vec4<u32>(0u, 16u, 32u, 48u);
        let seen = (j >= vec4<u32>(start)) & (j <= vec4<u32>(last));
        scores = select(vec4<f32>(-3.0e38), scores * params.scale, seen);

        maxima[lane] = max(max(scores.x, scores.y), max(scores.z, scores.w));
        workgroupBarrier();
        let before = greatest;
        for (var i = 0u; i < 16u; i++) {
            greatest = max(greatest, maxima[row * 16u + i]);
        }
        let weight = select(vec4<f32>(0.0), exp(scores - vec4<f32>(greatest)), seen);
        let decay = exp(before - greatest);
        weights[row][column] = weight.x;
        weights[row][column + 16u] = weight.y;
        weights[row][column + 32u] = weight.z;
        weights[row][column + 48u] = weight.w;
        totals[lane] = dot(weight, vec4<f32>(1.0));
        workgroupBarrier();
        total *= decay;
        for (var i = 0u; i < 16u; i++) {
            total += totals[row * 16u + i];
        }
        r0 *= decay;
        r1 *= decay;
        r2 *= decay;
        r3 *= decay;
        for (var i = 0u; i < min(TILE, high - tile); i++) {
            let weight = weights[row][i];
            if column < params.chunks {
                r0 += weight * value_scale(h, tile + i, column) * value4(h, tile + i, column);
            }
            if column + 16u < params.chunks {
                r1 += weight * value_scale(h, tile + i, column + 16u) * value4(h, tile + i, column + 16u);
            }
            if column + 32u < params.chunks {
                r2 += weight * value_scale(h, tile + i, column + 32u) * value4(h, tile + i, column + 32u);
            }
            if column + 48u < params.chunks {
                r3 += weight * value_scale(h, tile + i, column + 48u) * value4(h, tile + i, column + 48u);
            }
        }
    }
    if block + row < params.tokens {
        let to = ((block + row) * params.heads + head) * params.d;
        store(to, column, r0 / total);
        store(to, column + 16u, r1 / total);
        store(to, column + 32u, r2 / total);
        store(to, column + 48u, r3 / total);
    }
}

// The first and the last row that a query sees.
fn start_of(t: u32) -> u32 {
    let place = places[t];
    return place.y + select(0u, place.x + 1u - params.window, params.window > 0u && place.x + 1u > params.window);
}

fn last_of(t: u32) -> u32 {
    return min(places[t].x + places[t].y, params.rows - 1u);
}

// 4 values of a query from 4 chunk on, zeros past the end of the head.
fn query4(t: u32, head: u32, chunk: u32) -> vec4<f32> {
    let at = (t * params.heads + head) * params.d + 4u * chunk;
    var value = vec4<f32>(0.0);
    if 4u * chunk < params.d { value.x = q[at]; }
    if 4u * chunk + 1u < params.d { value.y = q[at + 1u]; }
    if 4u * chunk + 2u < params.d { value.z = q[at + 2u]; }
    if 4u * chunk + 3u < params.d { value.w = q[at + 3u]; }
    return value;
}

fn store(to: u32, chunk: u32, value: vec4<f32>) {
    let at = to + 4u * chunk;
    if 4u * chunk < params.d { y[at] = value.x; }
    if 4u * chunk + 1u < params.d { y[at + 1u] = value.y; }
    if 4u * chunk + 2u < params.d { y[at + 2u] = value.z; }
    if 4u * chunk + 3u < params.d { y[at + 3u] = value.w; }
}
