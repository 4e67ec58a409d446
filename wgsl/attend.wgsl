// Attention of a token and all that stands before it: query and key heads are normed (where a model does that)
// and rotated, key and value go into the cache, y = softmax(scale q k^T) v over the keys that the token sees.
//
// Work split: workgroup (KV head and up to 4 of its query heads, split of the keys, token). LANES neighbours of
// its 128 invocations cover a head, 8 values each; so 128 / LANES parts take keys, four at a time, and every
// query head uses a key and a value once loaded. Queries, maxima and sums stay in registers, and no barrier
// stands between keys; parts meet in workgroup memory at the end.
// Keys that this step writes are not read from the cache: who needs one makes it anew, rounded as the cache
// stores it. So no workgroup waits for another, and tokens of one sequence may come together, at consecutive
// positions.
// With one split the result is y; else, for attend_combine, sums per query head and split, and after all of
// them maximum and sum of weights of each.
// Parts: first_key, end_key, share (key_range); key8, value8, round8, eight (cache8_*); across4, spread4,
// base_lane, any_lane (lanes_*); q_gain8, k_gain8 (head_gains, no_head_gains); cos_sin (angle). Bindings and q4,
// k4, v4 are generated, for queries, keys and values may be one array.

// Invocations that cover a head: its values / 8, rounded up to a power of two, at least 8.
override LANES: u32 = 16u;
// Query heads of a workgroup, 1 to 4.
override HEADS: u32 = 4u;
// Tokens of the step.
override TOKENS: u32 = 1u;
// Angles of all tokens: 4 per token and lane of a head.
override ANGLES: u32 = 64u;
override NORM: u32 = 0u;
override INTERLEAVED: u32 = 0u;
const WG: u32 = 128u;
// By how much a score may exceed what weights are relative to before sums are rescaled.
const SLACK: f32 = 8.0;

var<workgroup> angles: array<vec2<f32>, ANGLES>;
var<workgroup> meeting: array<vec4<f32>, 256>;
var<workgroup> maxima: array<vec4<f32>, 16>;
var<workgroup> totals: array<vec4<f32>, 16>;

// 8 values of a head, and the 8 that they turn with.
struct Pairs { own: mat2x4<f32>, other: mat2x4<f32> }

// Cosines, and sines with the sign that the other values take.
struct Turn { cosine: mat2x4<f32>, sine: mat2x4<f32> }

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let h = group.x / params.chunks;
    let heads = params.heads / params.kv_heads;
    let first_head = (group.x % params.chunks) * HEADS;
    let t = group.z;
    let here = places[t];
    let begin = first_key(here);
    let size = share(end_key(here) - begin);
    let low = begin + group.y * size;
    let high = min(low + size, end_key(here));
    if low >= high {
        return;
    }
    // The first key that this step writes: from there on the cache is of old.
    var fresh = here.x;
    for (var i = 0u; i < TOKENS; i++) {
        if places[i].y == here.y {
            fresh = min(fresh, places[i].x);
        }
    }
    let stored = min(high, fresh);

    let c = lane % LANES;
    let part = lane / LANES;
    let base = base_lane(lane);
    let q_at = t * params.q_pitch + (h * heads + first_head) * 2u * params.eights;
    let r0 = query(q_at, 0u, c);
    let r1 = query(q_at, min(1u, heads - 1u - first_head), c);
    let r2 = query(q_at, min(2u, heads - 1u - first_head), c);
    let r3 = query(q_at, min(3u, heads - 1u - first_head), c);
    for (var i = lane; i < TOKENS * params.half; i += WG) {
        let angle = f32(places[i / params.half].x) * inv_freq[i % params.half];
        angles[i] = params.rope_scale * cos_sin(angle);
    }
    workgroupBarrier();
    var factor = vec4<f32>(1.0);
    if NORM != 0u {
        factor = inverse_rms(lane, vec4<f32>(squares(r0.own), squares(r1.own), squares(r2.own), squares(r3.own)));
    }
    factor *= params.scale;
    let turn = turn8(t, c);
    let gain = Pairs(q_gain8(c), others(c, q_gain8(c), q_gain8(other_of(c))));
    let q0 = factor.x * turned(r0, gain, turn);
    let q1 = factor.y * turned(r1, gain, turn);
    let q2 = factor.z * turned(r2, gain, turn);
    let q3 = factor.w * turned(r3, gain, turn);

    var a0 = mat2x4<f32>();
    var a1 = mat2x4<f32>();
    var a2 = mat2x4<f32>();
    var a3 = mat2x4<f32>();
    var greatest = vec4<f32>(-3.0e38);
    var total = vec4<f32>(0.0);
    let pitch = params.kv_heads * params.eights;
    let column = here.y * pitch + h * params.eights + min(c, params.eights - 1u);
    // Of four keys, the one whose score this invocation ends up with.
    let upper = (c & (LANES / 2u)) != 0u;
    let odd = (c & (LANES / 4u)) != 0u;
    let own = part + (WG / LANES) * (select(0u, 2u, upper) + select(0u, 1u, odd));
    for (var tile = low; tile < stored; tile += 4u * WG / LANES) {
        let j = tile + part;
        let at0 = column + min(j, stored - 1u) * pitch;
        let at1 = column + min(j + WG / LANES, stored - 1u) * pitch;
        let at2 = column + min(j + 2u * WG / LANES, stored - 1u) * pitch;
        let at3 = column + min(j + 3u * WG / LANES, stored - 1u) * pitch;
        let k0 = key8(at0);
        let k1 = key8(at1);
        let k2 = key8(at2);
        let k3 = key8(at3);
        let v0 = value8(at0);
        let v1 = value8(at1);
        let v2 = value8(at2);
        let v3 = value8(at3);
        let s0 = scores(q0, q1, q2, q3, eight(k0));
        let s1 = scores(q0, q1, q2, q3, eight(k1));
        let s2 = scores(q0, q1, q2, q3, eight(k2));
        let s3 = scores(q0, q1, q2, q3, eight(k3));
        // Sums over the lanes, each half of which goes on with half of the keys.
        let even_sum = select(s0, s2, upper) + across4(lane, select(s2, s0, upper), LANES / 2u);
        let odd_sum = select(s1, s3, upper) + across4(lane, select(s3, s1, upper), LANES / 2u);
        var score = select(even_sum, odd_sum, odd) + across4(lane, select(odd_sum, even_sum, odd), LANES / 4u);
        for (var distance = LANES / 8u; distance > 0u; distance /= 2u) {
            score += across4(lane, score, distance);
        }
        let seen = tile + own < stored;
        score = select(vec4<f32>(-3.0e38), score, seen);
        if any_lane(any(score > greatest + SLACK)) {
            var next = max(greatest, score);
            next = max(next, across4(lane, next, LANES / 2u));
            next = max(next, across4(lane, next, LANES / 4u));
            let decay = exp(greatest - next);
            greatest = next;
            total *= decay;
            a0 *= decay.x;
            a1 *= decay.y;
            a2 *= decay.z;
            a3 *= decay.w;
        }
        let weight = select(vec4<f32>(0.0), exp(score - greatest), seen);
        total += weight;
        let weights = spread4(lane, base, weight);
        let w0 = eight(v0);
        a0 += weights[0].x * w0;
        a1 += weights[0].y * w0;
        a2 += weights[0].z * w0;
        a3 += weights[0].w * w0;
        let w1 = eight(v1);
        a0 += weights[1].x * w1;
        a1 += weights[1].y * w1;
        a2 += weights[1].z * w1;
        a3 += weights[1].w * w1;
        let w2 = eight(v2);
        a0 += weights[2].x * w2;
        a1 += weights[2].y * w2;
        a2 += weights[2].z * w2;
        a3 += weights[2].w * w2;
        let w3 = eight(v3);
        a0 += weights[3].x * w3;
        a1 += weights[3].y * w3;
        a2 += weights[3].z * w3;
        a3 += weights[3].w * w3;
    }

    for (var i = 0u; i < TOKENS; i++) {
        let position = places[i].x;
        if places[i].y != here.y || position < low || position >= high {
            continue;
        }
        let k_at = i * params.kv_pitch + params.k_first + h * 2u * params.eights;
        let v_at = i * params.kv_pitch + params.v_first + h * 2u * params.eights + 2u * c;
        var new_key = Pairs();
        var new_value = mat2x4<f32>();
        if c < params.eights {
            new_key.own = mat2x4<f32>(k4(k_at + 2u * c), k4(k_at + 2u * c + 1u));
            let from_other = k_at + 2u * other_of(c);
            new_key.other = others(c, new_key.own, mat2x4<f32>(k4(from_other), k4(from_other + 1u)));
            new_value = mat2x4<f32>(v4(v_at), v4(v_at + 1u));
        }
        var inverse = 1.0;
        if NORM != 0u {
            inverse = inverse_rms(lane, vec4<f32>(squares(new_key.own))).x;
        }
        let key_gain = Pairs(k_gain8(c), others(c, k_gain8(c), k_gain8(other_of(c))));
        let key = round8(inverse * turned(new_key, key_gain, turn8(i, c)));
        let value = round8(new_value);
        if i == t && part == 0u && first_head == 0u && c < params.eights {
            set_key8(column + position * pitch, key);
            set_value8(column + position * pitch, value);
        }
        var score = scores(q0, q1, q2, q3, eight(key));
        for (var distance = LANES / 2u; distance > 0u; distance /= 2u) {
            score += across4(lane, score, distance);
        }
        // One part counts it, and of its lanes as many as count a stored key.
        let counts = part == i % (WG / LANES);
        let next = select(greatest, max(greatest, score), counts);
        let decay = exp(greatest - next);
        greatest = next;
        let weight = select(vec4<f32>(0.0), exp(score - next), counts);
        total = total * decay + select(vec4<f32>(0.0), weight, c < LANES / 4u);
        a0 = decay.x * a0 + weight.x * eight(value);
        a1 = decay.y * a1 + weight.y * eight(value);
        a2 = decay.z * a2 + weight.z * eight(value);
        a3 = decay.w * a3 + weight.w * eight(value);
    }

    for (var distance = LANES / 2u; distance > 0u; distance /= 2u) {
        total += across4(lane, total, distance);
    }
    if c == 0u {
        maxima[part] = greatest;
        totals[part] = total * (4.0 / f32(LANES));
    }
    workgroupBarrier();
    var all = maxima[0];
    for (var i = 1u; i < WG / LANES; i++) {
        all = max(all, maxima[i]);
    }
    var sum = vec4<f32>(0.0);
    for (var i = 0u; i < WG / LANES; i++) {
        sum += exp(maxima[i] - all) * totals[i];
    }
    let row = t * params.heads + h * heads + first_head;
    let last_head = min(HEADS, heads - first_head) - 1u;
    let decay = exp(greatest - all);
    let share_of = select(vec4<f32>(1.0), 1.0 / sum, params.splits == 1u);
    settle(lane, group.y, row, decay.x * a0, share_of.x);
    if HEADS > 1u {
        settle(lane, group.y, row + min(1u, last_head), decay.y * a1, share_of.y);
    }
    if HEADS > 2u {
        settle(lane, group.y, row + min(2u, last_head), decay.z * a2, share_of.z);
    }
    if HEADS > 3u {
        settle(lane, group.y, row + min(3u, last_head), decay.w * a3, share_of.w);
    }
    if params.splits > 1u && lane <= last_head {
        let edges = TOKENS * params.heads * params.splits * 2u * params.eights;
        out[edges + (row + lane) * params.splits + group.y] = vec4<f32>(all[lane], sum[lane], 0.0, 0.0);
    }
}

// Adds up what the parts found for one query head; multiplied by `factor` it is the result of this split.
fn settle(lane: u32, split: u32, row: u32, own: mat2x4<f32>, factor: f32) {
    workgroupBarrier();
    meeting[2u * lane] = own[0];
    meeting[2u * lane + 1u] = own[1];
    workgroupBarrier();
    if lane < 2u * params.eights {
        var sum = meeting[lane];
        for (var i = 1u; i < WG / LANES; i++) {
            sum += meeting[2u * i * LANES + lane];
        }
        out[(row * params.splits + split) * 2u * params.eights + lane] = factor * sum;
    }
}

fn query(q_at: u32, head: u32, c: u32) -> Pairs {
    var result = Pairs();
    if c < params.eights {
        let at = q_at + head * 2u * params.eights;
        result.own = mat2x4<f32>(q4(at + 2u * c), q4(at + 2u * c + 1u));
        let from_other = at + 2u * other_of(c);
        result.other = others(c, result.own, mat2x4<f32>(q4(from_other), q4(from_other + 1u)));
    }
    return result;
}

// The lane whose values those of lane c turn with; c itself past what turns, and where neighbours turn.
fn other_of(c: u32) -> u32 {
    let lanes = params.half / 8u;
    if INTERLEAVED != 0u || c >= 2u * lanes {
        return c;
    }
    return select(c - lanes, c + lanes, c < lanes);
}

fn others(c: u32, own: mat2x4<f32>, from_other: mat2x4<f32>) -> mat2x4<f32> {
    if INTERLEAVED != 0u {
        return mat2x4<f32>(own[0].yxwz, own[1].yxwz);
    }
    return from_other;
}

fn turn8(token: u32, c: u32) -> Turn {
    let lanes = params.half / 8u;
    if c >= 2u * lanes {
        let ones = vec4<f32>(1.0);
        return Turn(mat2x4<f32>(ones, ones), mat2x4<f32>());
    }
    if INTERLEAVED != 0u {
        let at = token * params.half + 4u * c;
        let a = angles[at];
        let b = angles[at + 1u];
        let d = angles[at + 2u];
        let e = angles[at + 3u];
        let cosine = mat2x4<f32>(vec4<f32>(a.xx, b.xx), vec4<f32>(d.xx, e.xx));
        return Turn(cosine, mat2x4<f32>(vec4<f32>(-a.y, a.y, -b.y, b.y), vec4<f32>(-d.y, d.y, -e.y, e.y)));
    }
    let at = token * params.half + 8u * select(c - lanes, c, c < lanes);
    let a = mat4x2<f32>(angles[at], angles[at + 1u], angles[at + 2u], angles[at + 3u]);
    let b = mat4x2<f32>(angles[at + 4u], angles[at + 5u], angles[at + 6u], angles[at + 7u]);
    let sign = select(1.0, -1.0, c < lanes);
    let cosine = mat2x4<f32>(vec4<f32>(a[0].x, a[1].x, a[2].x, a[3].x), vec4<f32>(b[0].x, b[1].x, b[2].x, b[3].x));
    let sine = mat2x4<f32>(vec4<f32>(a[0].y, a[1].y, a[2].y, a[3].y), vec4<f32>(b[0].y, b[1].y, b[2].y, b[3].y));
    return Turn(cosine, sign * sine);
}

fn times(a: mat2x4<f32>, b: mat2x4<f32>) -> mat2x4<f32> {
    return mat2x4<f32>(a[0] * b[0], a[1] * b[1]);
}

fn turned(x: Pairs, gain: Pairs, turn: Turn) -> mat2x4<f32> {
    return times(times(x.own, gain.own), turn.cosine) + times(times(x.other, gain.other), turn.sine);
}

fn squares(x: mat2x4<f32>) -> f32 {
    return dot(x[0], x[0]) + dot(x[1], x[1]);
}

// 1 / root mean square of up to four heads, from their lanes' squares.
fn inverse_rms(lane: u32, own: vec4<f32>) -> vec4<f32> {
    var sum = own;
    for (var distance = LANES / 2u; distance > 0u; distance /= 2u) {
        sum += across4(lane, sum, distance);
    }
    return inverseSqrt(sum / f32(8u * params.eights) + params.eps);
}

// This lane's share of the scores of a key with each query head.
fn scores(q0: mat2x4<f32>, q1: mat2x4<f32>, q2: mat2x4<f32>, q3: mat2x4<f32>, key: mat2x4<f32>) -> vec4<f32> {
    var score = vec4<f32>(dot(q0[0], key[0]) + dot(q0[1], key[1]), 0.0, 0.0, 0.0);
    if HEADS > 1u {
        score.y = dot(q1[0], key[0]) + dot(q1[1], key[1]);
    }
    if HEADS > 2u {
        score.z = dot(q2[0], key[0]) + dot(q2[1], key[1]);
    }
    if HEADS > 3u {
        score.w = dot(q3[0], key[0]) + dot(q3[1], key[1]);
    }
    return score;
}
