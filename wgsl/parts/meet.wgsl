// Where the parts of a workgroup of attend or attend_packed meet, LANES invocations of which cover a head: they agree on
// what weights are relative to, so that sums only need adding. Those of a subgroup add up first. Needs across4
// (lanes_*), Found, LOWEST (found).

// Vectors of 4 values that meet: 8 values of each invocation for some heads; or rows, those that are ready in the first
// half, as they come in the second. There is little of it, so that several workgroups are resident.
override MEETING: u32 = 512u;

override PARTS: u32 = WG / LANES;
// Parts that are in one subgroup on every adapter of this kind, a power of two: they meet without workgroup memory.
override MERGED: u32 = 1u;
// Heads that come together at a time.
override AT_ONCE: u32 = select(2u, 4u, MERGED > 1u && HEADS > 2u);

var<workgroup> meeting: array<vec4<f32>, MEETING>;
// Of each subgroup's parts, for every head: what their weights are relative to, and the sum of weights.
var<workgroup> levels: array<vec4<f32>, 32>;
var<workgroup> totals: array<vec4<f32>, 32>;

fn kept8(at: u32) -> mat2x4<f32> {
    return mat2x4<f32>(meeting[at], meeting[at + 1u]);
}

fn keep8(at: u32, x: mat2x4<f32>) {
    meeting[at] = x[0];
    meeting[at + 1u] = x[1];
}

// The greatest of all parts.
fn agree(lane: u32, greatest: vec4<f32>) -> vec4<f32> {
    var level = greatest;
    for (var distance = LANES; distance < MERGED * LANES; distance *= 2u) {
        level = max(level, across4(lane, level, distance));
    }
    if lane % (MERGED * LANES) == 0u {
        levels[lane / (MERGED * LANES)] = level;
    }
    workgroupBarrier();
    level = levels[0];
    for (var i = 1u; i < PARTS / MERGED; i++) {
        level = max(level, levels[i]);
    }
    return level;
}

// Of two sums, the one that this lane goes on with, and what its partner has of it.
fn kept(lane: u32, first: mat2x4<f32>, second: mat2x4<f32>, distance: u32) -> mat2x4<f32> {
    let is_second = (lane & distance) != 0u;
    return mat2x4<f32>(
        select(first[0], second[0], is_second)
            + across4(lane, select(second[0], first[0], is_second), distance),
        select(first[1], second[1], is_second)
            + across4(lane, select(second[1], first[1], is_second), distance),
    );
}

// MERGED neighbouring parts together, each of which is left with fewer heads: two of four, or one. Notes the sums of
// weights.
fn merge(lane: u32, own: Found) -> Found {
    var weights = own.total;
    for (var distance = LANES; distance < MERGED * LANES; distance *= 2u) {
        weights += across4(lane, weights, distance);
    }
    if lane % (MERGED * LANES) == 0u {
        totals[lane / (MERGED * LANES)] = weights;
    }
    if MERGED == 1u {
        return own;
    }
    var sums = own;
    var distance = LANES;
    if HEADS > 2u {
        sums.a = kept(lane, own.a, own.c, distance);
        sums.b = kept(lane, own.b, own.d, distance);
        distance *= 2u;
    }
    if HEADS <= 2u || MERGED > 2u {
        sums.a = kept(lane, sums.a, sums.b, distance);
        distance *= 2u;
    }
    for (; distance < MERGED * LANES; distance *= 2u) {
        let a = across4(lane, sums.a[0], distance);
        let b = across4(lane, sums.a[1], distance);
        sums.a += mat2x4<f32>(a, b);
    }
    return sums;
}

fn put(slot: u32, lane: u32, own: mat2x4<f32>) {
    keep8(2u * ((lane / (MERGED * LANES) * AT_ONCE + slot) * LANES + lane % LANES), own);
}

// AT_ONCE heads from the first on come together.
fn meet(lane: u32, first: u32, sums: Found) {
    let part = lane / LANES;
    if MERGED == 1u {
        if first == 0u {
            put(0u, lane, sums.a);
            put(1u, lane, sums.b);
        } else {
            put(0u, lane, sums.c);
            put(1u, lane, sums.d);
        }
    } else if HEADS <= 2u {
        if part % MERGED < 2u {
            put(part & 1u, lane, sums.a);
        }
    } else if MERGED == 2u {
        put(2u * (part & 1u), lane, sums.a);
        put(2u * (part & 1u) + 1u, lane, sums.b);
    } else if part % MERGED < 4u {
        put(2u * (part & 1u) + ((part / 2u) & 1u), lane, sums.a);
    }
}

// Whether what one split found is the result; else another stage goes on with it.
override WHOLE: u32 = 1u;

// Vector v of what a split found of a head: sums, what their weights are relative to, and the sum of weights. Unless that
// is the result, these two follow all sums.
fn put_found(row: u32, v: u32, split: u32, splits: u32, sum: vec4<f32>, level: f32, total: f32) {
    let to = row * splits + split;
    if splits == 1u && WHOLE == 1u {
        out[to * 2u * params.eights + v] = sum / total;
        return;
    }
    out[to * 2u * params.eights + v] = sum;
    if v == 0u {
        let edges = TOKENS * params.heads * splits * 2u * params.eights;
        out[edges + to] = vec4<f32>(level, total, 0.0, 0.0);
    }
}

// Adds up what the parts found of vector v of a head.
fn settle(head: u32, v: u32, row: u32, split: u32, splits: u32, level: f32) {
    var sum = vec4<f32>(0.0);
    var total = 0.0;
    for (var i = 0u; i < PARTS / MERGED; i++) {
        total += totals[i][head];
        sum += meeting[2u * (i * AT_ONCE + head % AT_ONCE) * LANES + v];
    }
    put_found(row + head, v, split, splits, sum, level, total);
}

// What all parts found of the `count` query heads of a token from `head` on; all call.
fn deliver(lane: u32, own: Found, t: u32, head: u32, count: u32, split: u32, splits: u32) {
    let level = agree(lane, own.greatest);
    let decay = exp(own.greatest - level);
    let scaled = Found(
        decay.x * own.a,
        decay.y * own.b,
        decay.z * own.c,
        decay.w * own.d,
        level,
        decay * own.total,
    );
    let sums = merge(lane, scaled);
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
            if own_head < min(HEADS, count) && v < 2u * params.eights {
                settle(own_head, v, row, split, splits, level[own_head]);
            }
        }
    }
}

// The same where there are no keys.
fn deliver_none(lane: u32, t: u32, head: u32, count: u32, split: u32, splits: u32) {
    for (var i = lane; i < HEADS * 2u * LANES; i += WG) {
        let own_head = i / (2u * LANES);
        let v = i % (2u * LANES);
        if own_head < count && v < 2u * params.eights {
            put_found(t * params.heads + head + own_head, v, split, splits, vec4<f32>(0.0), LOWEST, 0.0);
        }
    }
}
