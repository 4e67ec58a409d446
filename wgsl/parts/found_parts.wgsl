// What the parts of a workgroup find where each has some keys of its own: 8 values of all query heads an invocation.
// Needs across4 (lanes_*); keep8, PARTS, MERGED, AT_ONCE (meet); LANES, HEADS (found).

// Invocations that find together.
override TOGETHER: u32 = LANES;

// Of each subgroup's parts, for every head: what their weights are relative to, and the sum of weights.
var<workgroup> levels: array<vec4<f32>, 32>;
var<workgroup> totals: array<vec4<f32>, 32>;

// What an invocation has found: sums of its 8 values of each query head and of weights, relative to exp(greatest).
struct Found { a: mat2x4<f32>, b: mat2x4<f32>, c: mat2x4<f32>, d: mat2x4<f32>, greatest: vec4<f32>, total: vec4<f32> }

// With one more key, whose scores all lanes know, if it counts for this part.
fn with_key(lane: u32, before: Found, score: vec4<f32>, value: mat2x4<f32>, counts: bool) -> Found {
    let higher = select(before.greatest, max(before.greatest, score), counts);
    let decay = exp(before.greatest - higher);
    let weight = select(vec4<f32>(0.0), exp(score - higher), counts);
    return Found(
        decay.x * before.a + weight.x * value,
        decay.y * before.b + weight.y * value,
        decay.z * before.c + weight.z * value,
        decay.w * before.d + weight.w * value,
        higher,
        decay * before.total + weight,
    );
}

// Of every head, once all have told.
fn all_levels() -> vec4<f32> {
    var level = levels[0];
    for (var i = 1u; i < PARTS / MERGED; i++) {
        level = max(level, levels[i]);
    }
    return level;
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
    return all_levels();
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

// Sums as they meet, relative to levels that all agree on, after which MERGED parts are together; all call. They wait for
// each other: until then others may read rows (READ_READY).
fn to_meet(lane: u32, own: Found) -> Found {
    let level = agree(lane, own.greatest);
    let decay = exp(own.greatest - level);
    let sums =
        Found(decay.x * own.a, decay.y * own.b, decay.z * own.c, decay.w * own.d, level, decay * own.total);
    return merge(lane, sums);
}

fn level_of(head: u32) -> f32 {
    return all_levels()[head];
}

// All have agreed.
fn decay_of(i: u32, head: u32, level: f32) -> f32 {
    return 1.0;
}

fn total_of(i: u32, head: u32) -> f32 {
    return totals[i][head];
}
