// Attention of many queries, softmax(scale q k^T) v, by cooperative matrices: f16 factors, f32 sums.
//
// Work split: workgroup (key head, block, part of the keys). A block's rows are queries of the heads that share
// the key head, token by token; each of its SUBGROUPS has ROWS of them and keeps their sums in registers. All walk over the
// keys together, in tiles of KEYS keys and values that pass through workgroup memory; those of the next tile are
// on their way from memory meanwhile. A tile that no row sees is not visited.
// A matrix shows its elements no other way, so scores pass through workgroup memory, COLUMNS keys at a time, as
// f32; SHARE lanes have a row there and turn its scores into weights, which return as f16. Weights are
// relative to a reference that follows the row's greatest score only when that is 2^SLACK times as much (lazy
// online softmax): then alone the sums, too, pass through workgroup memory and are rescaled.
// Queries are f16 after a power of two has brought a row's largest value to between 2^13 and 2^14.
// A softcap would stand in `taken`; a sink is one more weight in `total`.
// Generated (ops/attention_coop.rs): bindings, sizes, matrix types, one line per fragment or load.
// Parts: rows of the block and what they see (attention_rows); pages_of, row_in (two_pages); a lane's row in f16 (attention_queries); tiles of
// keys, values, weights and scores (attention_tiles_*); Raw, fetch_key, fetch_value, low, high (rows_*); deliver,
// deliver_weight (attention_whole, attention_part).
// Best, on an H100 without robust buffer access, causal, 32 heads over 8 key heads of 128: 2048 queries at 16384
// keys 166 TFLOP/s, 512 158; 2048 of 2048 139. 512 at 16384, heads of 64: 116, of 80: 110, of 96: 123, of 256: 150.
enable f16;
enable wgpu_cooperative_matrix;

const THREADS: u32 = SUBGROUPS * LANES;
// Lengths of rows in workgroup memory: neighbours fall into different banks.
const PITCH: u32 = D + 8u;
const WEIGHT_PITCH: u32 = COLUMNS + 8u;
const SCORE_PITCH: u32 = COLUMNS + 8u;
const SHARE: u32 = LANES / ROWS;
const LOADS: u32 = KEYS * D / 8u;

const SLACK: f32 = 8.0;
const LOG2_E: f32 = 1.4426950;
// Scores that are not seen lie below the reference of a row that has not seen any.
const HIDDEN: f32 = -1.0e30;
const NOTHING: f32 = -1.0e15;

// First rows, last rows: least and greatest of a subgroup.
var<workgroup> edges: array<vec4<u32>, SUBGROUPS>;

var<private> lane: u32;
var<private> subgroup: u32;
// Of the lane's row: what it sees, powers of two of its scores, reference, sum of this lane's weights.
var<private> range: vec2<u32>;
var<private> factor: f32;
var<private> reference: f32;
var<private> total: f32;
var<private> decay: f32;
var<private> fresh: bool;
// Of the block.
var<private> key_head: u32;
var<private> first_row: u32;
var<private> end: u32;
// Pages of the tile that is fetched.
var<private> pages: vec2<u32>;
// Which of how many that share the keys.
var<private> part: vec2<u32>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
    @builtin(subgroup_id) subgroup_id: u32,
    @builtin(subgroup_invocation_id) subgroup_lane: u32,
) {
    lane = subgroup_lane;
    subgroup = subgroup_id;
    key_head = group.x;
    // Late blocks, which see the most keys, begin first.
    first_row = (groups.y - 1u - group.y) * SUBGROUPS * ROWS;
    reference = NOTHING;
    total = 0.0;
    fresh = true;

    let tokens = vec2<u32>(token_of(row_of(first_row)), token_of(row_of(first_row + SUBGROUPS * ROWS - 1u)));
    range = range_of(token_of(own_row()));
    let own = vec4<u32>(subgroupMin(range.x), subgroupMax(range.x), subgroupMin(range.y), subgroupMax(range.y));
    edges[subgroup] = own;
    workgroupBarrier();
    var least = edges[0];
    var most = edges[0];
    for (var i = 1u; i < SUBGROUPS; i++) {
        least = min(least, edges[i]);
        most = max(most, edges[i]);
    }
    // Of several workgroups that share the keys, each takes as many whole tiles.
    let all = most.w + 1u;
    let share = (all - least.x + groups.z * KEYS - 1u) / (groups.z * KEYS) * KEYS;
    let begin = least.x + group.z * share;
    end = min(all, begin + share);
    range.y = min(range.y, end - 1u);
    part = vec2<u32>(group.z, groups.z);
    // Some rows see nothing of what others see: several sequences, or a window shorter than the block.
    let sparse = most.y > least.z;

    scale_row();
    load_queries();
    var tile = following(begin, tokens, end, sparse);
    pages = pages_of(tile, KEYS, params.rows);
    fetch_keys(tile, index);
    keep_keys(index);
    fetch_values(tile, index);
    var next = following(tile + KEYS, tokens, end, sparse);
    // Looked up a tile before its keys.
    var next_pages = pages_of(next, KEYS, params.rows);
    workgroupBarrier();
    loop {
        let later = following(next + KEYS, tokens, end, sparse);
        pages = next_pages;
        next_pages = pages_of(later, KEYS, params.rows);
        fetch_keys(next, index);
        score();
        keep_values(tile, index);
        workgroupBarrier();
        fetch_values(next, index);
        gather(tile, tile < most.y || tile + KEYS > least.z + 1u);
        keep_keys(index);
        workgroupBarrier();
        if next >= end {
            break;
        }
        tile = next;
        next = later;
    }
    for (var distance = 1u; distance < SHARE; distance *= 2u) {
        total += subgroupShuffleXor(total, distance);
    }
    finish();
    deliver_weight();
}

fn own_weights() -> u32 {
    return (subgroup * ROWS + lane / SHARE) * WEIGHT_PITCH;
}

fn own_scores() -> u32 {
    return (subgroup * ROWS + lane / SHARE) * SCORE_PITCH;
}

// Keys or values of which 8 values each are loaded by neighbours: those that lie side by side.
override LOADED: u32 = 1u;

// A load of a tile: which key or value, and which 8 values of it.
fn load_of(u: u32, index: u32) -> vec2<u32> {
    let load = min(u * THREADS + index, LOADS - 1u);
    return vec2<u32>(load / (LOADED * D / 8u) * LOADED + load % LOADED, load / LOADED % (D / 8u));
}

fn key_at(u: u32, tile: u32, index: u32) -> Raw {
    let at = load_of(u, index);
    return fetch_key(key_head, row_in(pages, min(tile, params.rows - 1u), min(tile + at.x, params.rows - 1u)), at.y);
}

fn value_at(u: u32, tile: u32, index: u32) -> Raw {
    let at = load_of(u, index);
    return fetch_value(key_head, row_in(pages, min(tile, params.rows - 1u), min(tile + at.x, params.rows - 1u)), at.y);
}

fn keep_key(u: u32, index: u32, raw: Raw) {
    let at = load_of(u, index);
    put_keys(at.x * PITCH + 8u * at.y, low(raw));
    put_keys(at.x * PITCH + 8u * at.y + 4u, high(raw));
}

// Values past the last that is seen are zeros: a weight of zero makes no zero of a NaN.
fn keep_value(u: u32, tile: u32, index: u32, raw: Raw) {
    let at = load_of(u, index);
    let seen = tile + at.x < end;
    put_values(at.x * PITCH + 8u * at.y, select(vec4<f16>(), low(raw), seen));
    put_values(at.x * PITCH + 8u * at.y + 4u, select(vec4<f16>(), high(raw), seen));
}

// Vector i of the lane's scores: keys 4 (SHARE i + lane % SHARE) and the next three of the span.
fn taken(i: u32, first: u32, partly: bool) -> vec4<f32> {
    let column = 4u * (i * SHARE + lane % SHARE);
    let scores = scores_at(own_scores() + column);
    if !partly {
        return scores;
    }
    let j = vec4<u32>(first + column) + vec4<u32>(0u, 1u, 2u, 3u);
    return select(vec4<f32>(HIDDEN), scores, (j >= vec4<u32>(range.x)) & (j <= vec4<u32>(range.y)));
}

fn weighed(i: u32, scores: vec4<f32>) {
    let weights = exp2(scores * factor - vec4<f32>(reference));
    total += dot(weights, vec4<f32>(1.0));
    put_weights(own_weights() + 4u * (i * SHARE + lane % SHARE), vec4<f16>(weights));
}

// The scores that the subgroup has staged, of keys `first` .. first + COLUMNS, become weights.
fn soften(first: u32, partly: bool) {
    subgroupBarrier();
    take(first, partly);
    var most = factor * greatest();
    for (var distance = 1u; distance < SHARE; distance *= 2u) {
        most = max(most, subgroupShuffleXor(most, distance));
    }
    var grown = subgroupAny(most > reference + SLACK);
    if grown {
        let before = reference;
        reference = max(reference, most);
        decay = exp2(before - reference);
        total *= decay;
    }
    grown = grown && !fresh;
    fresh = false;
    // No `if`: matrices may not be used there. Once is enough.
    for (; grown; grown = false) {
        subgroupBarrier();
        rescale();
    }
    weigh();
    subgroupBarrier();
}

// The staged sums of the lane's row, rescaled.
fn decay_staged() {
    subgroupBarrier();
    for (var i = lane % SHARE; i < COLUMNS / 4u; i += SHARE) {
        put_scores(own_scores() + 4u * i, decay * scores_at(own_scores() + 4u * i));
    }
    subgroupBarrier();
}

// Columns first .. first + COLUMNS of the sums, which are staged, become the result.
fn hand_on(first: u32) {
    subgroupBarrier();
    for (var i = lane % SHARE; i < COLUMNS / 4u; i += SHARE) {
        if is_row() && first + 4u * i < D {
            deliver(first + 4u * i, scores_at(own_scores() + 4u * i));
        }
    }
    subgroupBarrier();
}
