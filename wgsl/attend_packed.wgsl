// attend over a packed cache: query and key heads are normed (where a model does that) and rotated; key and value are
// coded and go into the cache; sums of coded values by softmax(scale q k^T), in the basis that the cache keeps.
//
// Work split: workgroup (KV head and up to 4 of its query heads, split of the keys, token). 128 invocations take 128
// keys at a time. First each has a key: no sums over lanes, queries come from workgroup memory. Then LANES
// neighbours cover a head, 8 values each, and 128 / LANES parts of them share the 128 values, each of which serves
// every query head once unpacked. Weights pass through workgroup memory, times the scale of each value's group:
// so a group's scale is multiplied once, not with every value. The next keys are on their way while values are
// used, and the next values while keys are.
// Keys that this step writes are not read from the cache: who needs one makes it anew, as attend does.
// On an NVIDIA H100, 32 heads of 128 over 8, without attend_packed_combine (4.2 us): 32768 keys of 4 bits 45 us, of 8
// bits 54 us, attend over f16 54 us. Of 4 bits 11 us are both ends, 7 scores, 15 values, 11 waits at barriers: it is
// instructions that bound it, 3 workgroups of 168 registers on a multiprocessor, and more in flight gains nothing.
// Matrix units, each subgroup with 16 keys of its own, took half as long again on an H200: codes go through memory.
// For attend_packed_combine: sums per query head and split, and after all of them maximum and sum of weights.
// Parts: first_key, end_key, window_start, share (key_range); first_new (first_new); page_of, row_at (pages); across4
// (lanes_*); row_of, inverse_rms, turn8, turned (heads8); q_gain8, k_gain8 (head_gains, no_head_gains); into_basis
// (bases8, no_bases8); rotated8 (walsh8), signed (signs); coded, scores (fresh8); store_fresh (store_fresh);
// note_query, keep_queries (key_dots_*); key_words, scales_of, scale_of, piece_scores (key_pieces); four_values,
// weights (four_values); values8 (codes8); sum4, max4 (sum_*); made_ready, settle (meet_packed); cos_sin (angle).
// Bindings, q4, k4, v4, key_quad, value8, key_word and the like are generated, for formats differ.

// Invocations that cover a head: its values / 8, rounded up to a power of two, at least 8.
override LANES: u32 = 16u;
// Query heads of a workgroup, 1 to 4.
override HEADS: u32 = 4u;
// Tokens of the step.
override TOKENS: u32 = 1u;
const WG: u32 = 128u;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let splits = groups.y;
    let h = group.x / params.chunks;
    let heads = params.heads / params.kv_heads;
    let first_head = (group.x % params.chunks) * HEADS;
    let t = group.z;
    let here = places[t];
    let begin = first_key(here);
    let size = share(end_key(here) - begin, splits);
    let low = begin + group.y * size;
    let high = min(low + size, end_key(here));
    if low >= high {
        return;
    }
    let stored = min(high, first_new(here));
    let last = max(stored, 1u) - 1u;
    let start = window_start(here);
    // Whether this split has the token's own key, which is the last.
    let owner = low <= here.x && here.x < high;

    let c = lane % LANES;
    let part = lane / LANES;
    let parts = WG / LANES;
    // The first keys are on their way while queries are made ready. A tile is a page, looked up a tile before.
    var page = page_of(here.y + min(low, last));
    var next_page = page_of(here.y + min(low + WG, last));
    let own_row = row_at(here.y + here.x);
    var row = page + min(low + lane, last) % PAGE;
    var key = key_words(row, h, 0u);
    var scales = scales_of(row, h);
    var values_now = four_values(page, low + part, last, h, c);

    // Heads to make ready: queries, key, value, perhaps a neighbour's; each part takes one.
    let head = h * heads + first_head;
    let most = heads - 1u - first_head;
    let neighbour = min(h + 1u, params.kv_heads - 1u);
    for (var i = lane; i < TOKENS * params.half; i += WG) {
        let angle = f32(places[i / params.half].x) * inv_freq[i % params.half];
        angles[i] = params.rope_scale * cos_sin(angle);
    }
    workgroupBarrier();
    let turn = turn8(t, c);
    // Who has no new key makes queries only.
    let rows = select(HEADS, HEADS + FRESH, owner);
    for (var first = 0u; first < rows; first += parts) {
        let r = first + part;
        let is_query = r < HEADS;
        let own_h = select(h, neighbour, r >= HEADS + 2u);
        let is_value = !is_query && ((r - HEADS) & 1u) == 1u;
        let raw = row_of(select(HEADS + u32(is_value), r, is_query), t, own_h, head + min(r, most), c);
        let inverse = inverse_rms(lane, raw.own);
        var ready = raw.own;
        if !is_value {
            var gain = gains(k_gain8(c), k_gain8(other_of(c)));
            if NORM == 1u && is_query {
                gain = gains(q_gain8(c), q_gain8(other_of(c)));
            }
            ready = inverse * turned(raw, gain, turn);
        }
        // Rows of a basis: keys, queries, values.
        ready = into_basis(select(select(0u, 4u, is_value), 2u, is_query), ready, own_h, c);
        ready = rotated8(lane, c, ready);
        var codes = Coded();
        if owner {
            codes = coded(lane, c, ready, is_value);
        }
        if is_query {
            ready = mat2x4<f32>(params.scale * ready[0], params.scale * ready[1]);
        }
        note_query(lane, c, r, ready);
        if !is_query {
            ready = codes.stands_for;
            if r < HEADS + FRESH {
                let at = 2u * ((r - HEADS) * LANES + c);
                fresh_codes[at] = codes.first;
                fresh_codes[at + 1u] = codes.last;
                if c % 8u == 0u && c < params.eights {
                    fresh_scales[(r - HEADS) * 4u + c / 8u] = codes.scale;
                }
            }
        }
        if r < HEADS + 2u {
            meeting[2u * (r * LANES + c)] = ready[0];
            meeting[2u * (r * LANES + c) + 1u] = ready[1];
        }
    }
    workgroupBarrier();
    keep_queries(lane);
    if owner && first_head == 0u {
        store_fresh(lane, h, own_row);
    }

    var a0 = mat2x4<f32>();
    var a1 = mat2x4<f32>();
    var a2 = mat2x4<f32>();
    var a3 = mat2x4<f32>();
    var greatest = vec4<f32>(-3.0e38);
    var total = vec4<f32>(0.0);
    if owner {
        greatest = over_lanes(lane, scores(c, made_ready(HEADS, c)));
        // One part counts it, and one invocation its weight.
        total = vec4<f32>(select(0.0, 1.0, lane == 0u));
        if part == 0u {
            a0 = made_ready(HEADS + 1u, c);
            a1 = a0;
            a2 = a0;
            a3 = a0;
        }
    }
    workgroupBarrier();

    let weights_at = (c / 8u) % GROUPS * (WG + 2u) + part;
    for (var tile = low; tile < stored; tile += WG) {
        let following_page = page_of(here.y + min(tile + 2u * WG, last));
        var score = vec4<f32>(0.0);
        for (var piece = 0u; piece < PIECES; piece++) {
            let now = key;
            if piece + 1u == PIECES {
                row = next_page + min(tile + WG + lane, last) % PAGE;
            }
            key = key_words(row, h, (piece + 1u) % PIECES);
            score += piece_scores(now, piece, scales.key, h);
        }
        let of_values = scales.value;
        scales = scales_of(row, h);
        let seen = tile + lane >= start && tile + lane < stored;
        // The barriers of max4 stand between the last tile's reads of `weights` and the writes below.
        let higher = max(greatest, max4(lane, select(vec4<f32>(-3.0e38), score, seen)));
        if any(higher > greatest) {
            let decay = exp(greatest - higher);
            greatest = higher;
            total *= decay;
            a0 *= decay.x;
            a1 *= decay.y;
            a2 *= decay.z;
            a3 *= decay.w;
        }
        let weight = select(vec4<f32>(0.0), exp(score - greatest), seen);
        total += weight;
        for (var g = 0u; g < GROUPS; g++) {
            weights[g * (WG + 2u) + lane] = weight * scale_of(of_values, h, g);
        }
        workgroupBarrier();
        for (var first = 0u; first < WG; first += 4u * parts) {
            let now = values_now;
            let next = first + 4u * parts;
            values_now = four_values(select(page, next_page, next == WG), tile + next + part, last, h, c);
            let at = weights_at + first;
            let w0 = weights[at];
            let x0 = values8(now.a, c);
            a0 += w0.x * x0;
            a1 += w0.y * x0;
            a2 += w0.z * x0;
            a3 += w0.w * x0;
            let w1 = weights[at + parts];
            let x1 = values8(now.b, c);
            a0 += w1.x * x1;
            a1 += w1.y * x1;
            a2 += w1.z * x1;
            a3 += w1.w * x1;
            let w2 = weights[at + 2u * parts];
            let x2 = values8(now.c, c);
            a0 += w2.x * x2;
            a1 += w2.y * x2;
            a2 += w2.z * x2;
            a3 += w2.w * x2;
            let w3 = weights[at + 3u * parts];
            let x3 = values8(now.d, c);
            a0 += w3.x * x3;
            a1 += w3.y * x3;
            a2 += w3.z * x3;
            a3 += w3.w * x3;
        }
        page = next_page;
        next_page = following_page;
    }

    // Keys of other tokens of this step that come before its own.
    for (var i = 0u; TOKENS > 1u && i < TOKENS; i++) {
        let position = places[i].x;
        if i == t || places[i].y != here.y || position < max(low, start) || position >= high {
            continue;
        }
        let raw_key = row_of(HEADS, i, h, head, c);
        let new_key = inverse_rms(lane, raw_key.own)
            * turned(raw_key, gains(k_gain8(c), k_gain8(other_of(c))), turn8(i, c));
        let new_value = row_of(HEADS + 1u, i, h, head, c).own;
        let own_key = coded(lane, c, rotated8(lane, c, into_basis(0u, new_key, h, c)), false).stands_for;
        let own_value = coded(lane, c, rotated8(lane, c, into_basis(4u, new_value, h, c)), true).stands_for;
        let score = over_lanes(lane, scores(c, own_key));
        let higher = max(greatest, score);
        let decay = exp(greatest - higher);
        greatest = higher;
        let weight = exp(score - higher);
        total = total * decay + select(vec4<f32>(0.0), weight, lane == 0u);
        let counted = select(vec4<f32>(0.0), weight, part == 0u);
        a0 = decay.x * a0 + counted.x * own_value;
        a1 = decay.y * a1 + counted.y * own_value;
        a2 = decay.z * a2 + counted.z * own_value;
        a3 = decay.w * a3 + counted.w * own_value;
    }

    total = sum4(lane, total);
    let head_row = t * params.heads + head;
    let last_head = min(HEADS - 1u, most);
    let to = head_row * splits + group.y;
    settle(lane, to, a0);
    if HEADS > 1u { settle(lane, to + min(1u, last_head) * splits, a1); }
    if HEADS > 2u { settle(lane, to + min(2u, last_head) * splits, a2); }
    if HEADS > 3u { settle(lane, to + min(3u, last_head) * splits, a3); }
    if lane <= last_head {
        let edges = TOKENS * params.heads * splits * 2u * params.eights;
        out[edges + (head_row + lane) * splits + group.y] = vec4<f32>(greatest[lane], total[lane], 0.0, 0.0);
    }
}
