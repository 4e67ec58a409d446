// Attention of many queries: softmax(scale q k^T) v over the keys that each query sees.
//
// Work split: workgroup (key head, block). A block's 64 rows are queries of the heads that share the key head, token
// by token; its 256 invocations walk over the keys in tiles of 64. An invocation makes the scores of rows
// 4 (lane / 16) .. + 4 and keys 4 (lane % 16) .. + 4, over slices of 16 values of the head that pass through
// workgroup memory. Weights go there too, 32 keys at a time; then an invocation gathers, for its rows, the
// values' vectors lane % 16 + 16 i. Maxima and sums are carried from tile to tile (online softmax). A tile that no
// row sees is not visited.
// Parts: row_of, token_of, range_of, place_of, following (attention_rows); pages_of,
// row_in (two_pages); key4, value4 (cache_*); key_scale, value_scale (cache_packed,
// unscaled). Bindings are declared by the op: they differ with the cache's type.
// Best, on an H100, 512 queries at 4096 keys: heads of 128 12.6 TFLOP/s, of 64 17; at 2048, of 256 9.6.

const TILE: u32 = 64u;
const HALF: u32 = 32u;
const HEIGHT: u32 = 64u;
// Vectors from row to row: of slices, and of weights.
const PITCH: u32 = 5u;
const WEIGHT_PITCH: u32 = 9u;

// Vectors of 64 values that a head has.
override SPREAD: u32 = 4u;

// Slices of 64 queries and 64 keys; or 64 rows of 32 weights.
var<workgroup> staged: array<vec4<f32>, 640>;
var<workgroup> maxima: array<vec4<f32>, 256>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let h = group.x;
    // Late blocks, which see the most keys, begin first.
    let first = (groups.y - 1u - group.y) * HEIGHT;
    let rows = lane >> 4u;
    let column = lane & 15u;

    // What any row of the block sees, and what all see; the same for every invocation.
    let tokens = vec2<u32>(token_of(row_of(first)), token_of(row_of(first + HEIGHT - 1u)));
    var least = range_of(tokens.x);
    var most = least;
    for (var token = tokens.x + 1u; token <= tokens.y; token++) {
        least = min(least, range_of(token));
        most = max(most, range_of(token));
    }
    let end = most.y + 1u;
    let sparse = most.x > least.y;
    let own0 = range_of(token_of(row_of(first + 4u * rows)));
    let own1 = range_of(token_of(row_of(first + 4u * rows + 1u)));
    let own2 = range_of(token_of(row_of(first + 4u * rows + 2u)));
    let own3 = range_of(token_of(row_of(first + 4u * rows + 3u)));

    var greatest = vec4<f32>(-3.0e38);
    var total = vec4<f32>(0.0);
    var sums0 = mat4x4<f32>();
    var sums1 = mat4x4<f32>();
    var sums2 = mat4x4<f32>();
    var sums3 = mat4x4<f32>();
    for (var tile = least.x; tile < end; tile = following(tile + TILE, tokens, end, sparse)) {
        var scores = mat4x4<f32>();
        let pages = pages_of(tile, TILE, end);
        for (var slice = 0u; slice < params.chunks; slice += 4u) {
            workgroupBarrier();
            // One vector of a query and one of a key for each invocation; key 4 c + n is at n * 16 + c.
            let chunk = slice + (lane & 3u);
            let at = lane >> 2u;
            let j = row_in(pages, tile, min(tile + at, end - 1u));
            var query = vec4<f32>(0.0);
            var key = vec4<f32>(0.0);
            if chunk < params.chunks {
                query = query4(h, row_of(first + at), chunk);
                key = key_scale(h, j, chunk) * key4(h, j, chunk);
            }
            staged[at * PITCH + (lane & 3u)] = query;
            staged[320u + ((at & 3u) * 16u + (at >> 2u)) * PITCH + (lane & 3u)] = key;
            workgroupBarrier();
            for (var i = 0u; i < 4u; i++) {
                let k0 = staged[320u + column * PITCH + i];
                let k1 = staged[320u + (16u + column) * PITCH + i];
                let k2 = staged[320u + (32u + column) * PITCH + i];
                let k3 = staged[320u + (48u + column) * PITCH + i];
                let q0 = staged[4u * rows * PITCH + i];
                let q1 = staged[(4u * rows + 1u) * PITCH + i];
                let q2 = staged[(4u * rows + 2u) * PITCH + i];
                let q3 = staged[(4u * rows + 3u) * PITCH + i];
                scores[0] += vec4<f32>(dot(q0, k0), dot(q0, k1), dot(q0, k2), dot(q0, k3));
                scores[1] += vec4<f32>(dot(q1, k0), dot(q1, k1), dot(q1, k2), dot(q1, k3));
                scores[2] += vec4<f32>(dot(q2, k0), dot(q2, k1), dot(q2, k2), dot(q2, k3));
                scores[3] += vec4<f32>(dot(q3, k0), dot(q3, k1), dot(q3, k2), dot(q3, k3));
            }
        }
        let j = vec4<u32>(tile + 4u * column) + vec4<u32>(0u, 1u, 2u, 3u);
        let seen0 = (j >= vec4<u32>(own0.x)) & (j <= vec4<u32>(own0.y));
        let seen1 = (j >= vec4<u32>(own1.x)) & (j <= vec4<u32>(own1.y));
        let seen2 = (j >= vec4<u32>(own2.x)) & (j <= vec4<u32>(own2.y));
        let seen3 = (j >= vec4<u32>(own3.x)) & (j <= vec4<u32>(own3.y));
        let hidden = vec4<f32>(-3.0e38);
        scores[0] = select(hidden, scores[0] * params.scale, seen0);
        scores[1] = select(hidden, scores[1] * params.scale, seen1);
        scores[2] = select(hidden, scores[2] * params.scale, seen2);
        scores[3] = select(hidden, scores[3] * params.scale, seen3);

        maxima[lane] = vec4<f32>(most4(scores[0]), most4(scores[1]), most4(scores[2]), most4(scores[3]));
        workgroupBarrier();
        let before = greatest;
        for (var i = 0u; i < 16u; i++) {
            greatest = max(greatest, maxima[rows * 16u + i]);
        }
        let decay = exp(before - greatest);
        // Rows that see none of the tile's keys weigh them with zeros.
        scores[0] = select(vec4<f32>(0.0), exp(scores[0] - vec4<f32>(greatest.x)), seen0);
        scores[1] = select(vec4<f32>(0.0), exp(scores[1] - vec4<f32>(greatest.y)), seen1);
        scores[2] = select(vec4<f32>(0.0), exp(scores[2] - vec4<f32>(greatest.z)), seen2);
        scores[3] = select(vec4<f32>(0.0), exp(scores[3] - vec4<f32>(greatest.w)), seen3);
        total = total * decay + vec4<f32>(1.0) * scores;
        sums0 = decayed(sums0, decay);
        if SPREAD > 1u { sums1 = decayed(sums1, decay); }
        if SPREAD > 2u { sums2 = decayed(sums2, decay); }
        if SPREAD > 3u { sums3 = decayed(sums3, decay); }
        for (var half = 0u; half < TILE; half += HALF) {
            if (column & 8u) * 4u == half {
                let to = 4u * rows * WEIGHT_PITCH + (column & 7u);
                staged[to] = scores[0];
                staged[to + WEIGHT_PITCH] = scores[1];
                staged[to + 2u * WEIGHT_PITCH] = scores[2];
                staged[to + 3u * WEIGHT_PITCH] = scores[3];
            }
            workgroupBarrier();
            for (var key = 0u; key < HALF && tile + half + key < end; key += 4u) {
                let at = 4u * rows * WEIGHT_PITCH + key / 4u;
                let weights = mat4x4<f32>(
                    staged[at],
                    staged[at + WEIGHT_PITCH],
                    staged[at + 2u * WEIGHT_PITCH],
                    staged[at + 3u * WEIGHT_PITCH],
                );
                let j = min(vec4<u32>(tile + half + key) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(end - 1u));
                let at_keys = vec4<u32>(
                    row_in(pages, tile, j.x),
                    row_in(pages, tile, j.y),
                    row_in(pages, tile, j.z),
                    row_in(pages, tile, j.w),
                );
                sums0 = gathered(sums0, weights, h, at_keys, column);
                if SPREAD > 1u { sums1 = gathered(sums1, weights, h, at_keys, column + 16u); }
                if SPREAD > 2u { sums2 = gathered(sums2, weights, h, at_keys, column + 32u); }
                if SPREAD > 3u { sums3 = gathered(sums3, weights, h, at_keys, column + 48u); }
            }
            workgroupBarrier();
        }
    }
    // Sums of weights meet as maxima did.
    maxima[lane] = total;
    workgroupBarrier();
    total = vec4<f32>(0.0);
    for (var i = 0u; i < 16u; i++) {
        total += maxima[rows * 16u + i];
    }
    let row = first + 4u * rows;
    let scale = vec4<f32>(1.0) / total;
    store4(h, row, column, decayed(sums0, scale));
    if SPREAD > 1u { store4(h, row, column + 16u, decayed(sums1, scale)); }
    if SPREAD > 2u { store4(h, row, column + 32u, decayed(sums2, scale)); }
    if SPREAD > 3u { store4(h, row, column + 48u, decayed(sums3, scale)); }
}

fn most4(x: vec4<f32>) -> f32 {
    return max(max(x.x, x.y), max(x.z, x.w));
}

// Each row's values times its factor.
fn decayed(sums: mat4x4<f32>, decay: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(sums[0] * decay.x, sums[1] * decay.y, sums[2] * decay.z, sums[3] * decay.w);
}

// The sums of 4 rows and 4 values, and those of the 4 keys in rows j; `weights` has a column for each row.
fn gathered(sums: mat4x4<f32>, weights: mat4x4<f32>, h: u32, j: vec4<u32>, c: u32) -> mat4x4<f32> {
    if c >= params.chunks {
        return sums;
    }
    let v0 = value_scale(h, j.x, c) * value4(h, j.x, c);
    let v1 = value_scale(h, j.y, c) * value4(h, j.y, c);
    let v2 = value_scale(h, j.z, c) * value4(h, j.z, c);
    let v3 = value_scale(h, j.w, c) * value4(h, j.w, c);
    return sums + mat4x4<f32>(v0, v1, v2, v3) * weights;
}

// 4 values of a row's query from 4 chunk on, zeros past the end of the head.
fn query4(h: u32, row: u32, chunk: u32) -> vec4<f32> {
    let at = place_of(h, row) + 4u * chunk;
    var value = vec4<f32>(0.0);
    if 4u * chunk < params.d { value.x = q[at]; }
    if 4u * chunk + 1u < params.d { value.y = q[at + 1u]; }
    if 4u * chunk + 2u < params.d { value.z = q[at + 2u]; }
    if 4u * chunk + 3u < params.d { value.w = q[at + 3u]; }
    return value;
}

fn store4(h: u32, row: u32, chunk: u32, values: mat4x4<f32>) {
    store(h, row, chunk, values[0]);
    store(h, row + 1u, chunk, values[1]);
    store(h, row + 2u, chunk, values[2]);
    store(h, row + 3u, chunk, values[3]);
}

fn store(h: u32, row: u32, chunk: u32, value: vec4<f32>) {
    if row != row_of(row) {
        return;
    }
    let at = place_of(h, row) + 4u * chunk;
    if 4u * chunk < params.d { y[at] = value.x; }
    if 4u * chunk + 1u < params.d { y[at + 1u] = value.y; }
    if 4u * chunk + 2u < params.d { y[at + 2u] = value.z; }
    if 4u * chunk + 3u < params.d { y[at + 3u] = value.w; }
}
