// Attention of a token and all that stands before it: query and key heads are normed (where a model does that)
// and rotated, key and value go into the cache, y = softmax(scale q k^T) v over the keys that the token sees.
//
// Work split: workgroup (KV head and up to 4 of its query heads, split of the keys, token). LANES neighbours of
// its invocations cover a head, 8 values each; so WG / LANES parts take keys, four at a time, and every query head
// uses a key and a value once loaded. Queries, maxima and sums stay in registers, and no barrier
// stands between keys; parts meet in workgroup memory at the end.
// Keys that this step writes are not read from the cache: who needs one makes it anew, rounded as the cache
// stores it. So no workgroup waits for another, and tokens of one sequence may come together, at consecutive
// positions.
// With one split the result is y; else, for attend_combine, sums per query head and split, and after all of
// them maximum and sum of weights of each.
// Parts: first_key, end_key, window_start, share (key_range); first_new (first_new); page_of, row_at (pages); key8,
// value8, round8, eight (cache8_*); rows_of, scores (four_keys); across4, spread4, base_lane, any_lane (lanes_*);
// row_of, inverse_rms, turn8, turned (heads8); q_gain8, k_gain8 (head_gains, no_head_gains); made_ready, agree,
// merge, meet, settle (meet); cos_sin (angle). Bindings and q4, k4, v4 are generated, for queries, keys and values may be one
// array.
// What it takes at few keys is the way there and back: weights that stream past between two layers leave neither its
// code nor its tables in any cache, so both ends are short.
// On an NVIDIA H100, f16, 32 heads of 128 over 8, between a model's other kernels, without attend_combine: 32768 keys
// 53.9 us (2.5 TB/s, 80% of what it can read), 16384 keys 32.0 us (68%), 600 keys 10.7 us; an H200 43.5, 27.4 and 10.8 us.
// Of 600 keys' time in a model, about 5.5 us without the start, places take 1, keys and angles 1 to 1.5, queries 0.4, two
// tiles of keys 2, the end 0.7. Splits added up by the workgroup that ends last, without attend_combine, gain 1% of a
// model of 1B and lose 1% at 16384 keys; idle workgroups that fetch the next weights gain nothing.

// Invocations that cover a head: its values / 8, rounded up to a power of two, at least 8.
override LANES: u32 = 16u;
// Query heads of a workgroup, 1 to 4.
override HEADS: u32 = 4u;
// Tokens of the step.
override TOKENS: u32 = 1u;
override WG: u32 = 128u;
// By how much a score may exceed what weights are relative to before sums are rescaled.
const SLACK: f32 = 8.0;

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
    let base = base_lane(lane);
    let pitch = params.kv_heads * params.eights;
    let column = h * params.eights + min(c, params.eights - 1u);
    // The first keys are on their way while queries are made ready, later ones while earlier ones are used; and the page
    // that a part's keys of a tile are in, a tile before them.
    let ahead = low + 4u * part;
    var at = rows_of(column, pitch, page_of(here.y + min(ahead, last)), ahead, last);
    var page = page_of(here.y + min(ahead + STEP, last));
    var k = Four(key8(at.x), key8(at.y), key8(at.z), key8(at.w));
    var v = Four(value8(at.x), value8(at.y), value8(at.z), value8(at.w));

    let own_row = row_at(here.y + here.x);

    // Rows to make ready: the query heads, the new key, the new value; each part takes one.
    let head = h * heads + first_head;
    let most = heads - 1u - first_head;
    var raw = row_of(part, t, h, head + min(part, most), c);
    for (var i = lane; i < TOKENS * params.half; i += WG) {
        let angle = f32(places[i / params.half].x) * inv_freq[i % params.half];
        angles[i] = params.rope_scale * cos_sin(angle);
    }
    workgroupBarrier();
    let turn = turn8(t, c);
    for (var first = 0u; first < HEADS + 2u; first += WG / LANES) {
        let row = first + part;
        if first > 0u {
            raw = row_of(row, t, h, head + min(row, most), c);
        }
        let inverse = inverse_rms(lane, raw.own);
        var ready = raw.own;
        if row < HEADS {
            ready = (params.scale * inverse) * turned(raw, gains(q_gain8(c), q_gain8(other_of(c))), turn);
        } else {
            if row == HEADS {
                ready = inverse * turned(raw, gains(k_gain8(c), k_gain8(other_of(c))), turn);
            }
            let rounded = round8(ready);
            ready = eight(rounded);
            if owner && first_head == 0u && c < params.eights {
                if row == HEADS {
                    set_key8(column + own_row * pitch, rounded);
                } else if row == HEADS + 1u {
                    set_value8(column + own_row * pitch, rounded);
                }
            }
        }
        if row < HEADS + 2u {
            meeting[2u * (row * LANES + c)] = ready[0];
            meeting[2u * (row * LANES + c) + 1u] = ready[1];
        }
    }
    workgroupBarrier();
    let q0 = made_ready(0u, c);
    let q1 = made_ready(min(1u, HEADS - 1u), c);
    let q2 = made_ready(min(2u, HEADS - 1u), c);
    let q3 = made_ready(HEADS - 1u, c);

    var a0 = mat2x4<f32>();
    var a1 = mat2x4<f32>();
    var a2 = mat2x4<f32>();
    var a3 = mat2x4<f32>();
    var greatest = vec4<f32>(-3.0e38);
    var total = vec4<f32>(0.0);
    if owner {
        let score = over_lanes(lane, scores(q0, q1, q2, q3, made_ready(HEADS, c)));
        // One part counts it, and of its lanes as many as count a stored key.
        if part == 0u {
            greatest = score;
            total = vec4<f32>(select(0.0, 1.0, c < LANES / 4u));
            a0 = made_ready(HEADS + 1u, c);
            a1 = a0;
            a2 = a0;
            a3 = a0;
        }
    }
    // Of four keys, the one whose score this invocation ends up with.
    let upper = (c & (LANES / 2u)) != 0u;
    let odd = (c & (LANES / 4u)) != 0u;
    let own = 4u * part + select(0u, 2u, upper) + select(0u, 1u, odd);
    for (var tile = low; tile < stored; tile += STEP) {
        let s0 = scores(q0, q1, q2, q3, eight(k.a));
        let s1 = scores(q0, q1, q2, q3, eight(k.b));
        let s2 = scores(q0, q1, q2, q3, eight(k.c));
        let s3 = scores(q0, q1, q2, q3, eight(k.d));
        at = rows_of(column, pitch, page, tile + STEP + 4u * part, last);
        page = page_of(here.y + min(tile + 2u * STEP + 4u * part, last));
        k = Four(key8(at.x), key8(at.y), key8(at.z), key8(at.w));
        // Sums over the lanes, each half of which goes on with half of the keys.
        let even_sum = select(s0, s2, upper) + across4(lane, select(s2, s0, upper), LANES / 2u);
        let odd_sum = select(s1, s3, upper) + across4(lane, select(s3, s1, upper), LANES / 2u);
        var score = select(even_sum, odd_sum, odd) + across4(lane, select(odd_sum, even_sum, odd), LANES / 4u);
        for (var distance = LANES / 8u; distance > 0u; distance /= 2u) {
            score += across4(lane, score, distance);
        }
        let seen = tile + own >= start && tile + own < stored;
        score = select(vec4<f32>(-3.0e38), score, seen);
        if any_lane(any(score > greatest + SLACK)) {
            var higher = max(greatest, score);
            higher = max(higher, across4(lane, higher, LANES / 2u));
            higher = max(higher, across4(lane, higher, LANES / 4u));
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
        let weights = spread4(lane, base, weight);
        let w0 = eight(v.a);
        a0 += weights[0].x * w0;
        a1 += weights[0].y * w0;
        a2 += weights[0].z * w0;
        a3 += weights[0].w * w0;
        let w1 = eight(v.b);
        a0 += weights[1].x * w1;
        a1 += weights[1].y * w1;
        a2 += weights[1].z * w1;
        a3 += weights[1].w * w1;
        let w2 = eight(v.c);
        a0 += weights[2].x * w2;
        a1 += weights[2].y * w2;
        a2 += weights[2].z * w2;
        a3 += weights[2].w * w2;
        let w3 = eight(v.d);
        a0 += weights[3].x * w3;
        a1 += weights[3].y * w3;
        a2 += weights[3].z * w3;
        a3 += weights[3].w * w3;
        v = Four(value8(at.x), value8(at.y), value8(at.z), value8(at.w));
    }

    // Keys of other tokens of this step that come before its own.
    for (var i = 0u; TOKENS > 1u && i < TOKENS; i++) {
        let position = places[i].x;
        if i == t || places[i].y != here.y || position < max(low, start) || position >= high {
            continue;
        }
        let new_key = row_of(HEADS, i, h, head, c);
        let gain = gains(k_gain8(c), k_gain8(other_of(c)));
        let key = eight(round8(inverse_rms(lane, new_key.own) * turned(new_key, gain, turn8(i, c))));
        let value = eight(round8(row_of(HEADS + 1u, i, h, head, c).own));
        let score = over_lanes(lane, scores(q0, q1, q2, q3, key));
        let counts = part == i % (WG / LANES);
        let higher = select(greatest, max(greatest, score), counts);
        let decay = exp(greatest - higher);
        greatest = higher;
        let weight = select(vec4<f32>(0.0), exp(score - higher), counts);
        total = total * decay + select(vec4<f32>(0.0), weight, c < LANES / 4u);
        a0 = decay.x * a0 + weight.x * value;
        a1 = decay.y * a1 + weight.y * value;
        a2 = decay.z * a2 + weight.z * value;
        a3 = decay.w * a3 + weight.w * value;
    }

    // Every quarter of the lanes has counted its own keys.
    total += across4(lane, total, LANES / 2u);
    total += across4(lane, total, LANES / 4u);
    let level = agree(lane, greatest);
    let decay = exp(greatest - level);
    let sums = merge(lane, Sums(decay.x * a0, decay.y * a1, decay.z * a2, decay.w * a3), decay * total);
    let row = t * params.heads + head;
    for (var first = 0u; first < HEADS; first += AT_ONCE) {
        // What stood there has been used by all.
        if first > 0u {
            workgroupBarrier();
        }
        meet(lane, first, sums);
        workgroupBarrier();
        for (var i = lane; i < AT_ONCE * 2u * LANES; i += WG) {
            let own_head = first + i / (2u * LANES);
            let v = i % (2u * LANES);
            if own_head < HEADS && own_head <= most && v < 2u * params.eights {
                settle(own_head, v, row, group.y, splits, level[own_head]);
            }
        }
    }
}
