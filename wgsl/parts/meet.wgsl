// Where a workgroup's sums of attend or attend_packed meet and are added up. Needs Found, to_meet, meet, level_of, decay_of,
// total_of (found_parts, found_teams), LOWEST (found).

// Vectors of 4 values that meet: 8 values of each invocation for some heads; or rows, those that are ready in the first
// half, as they come in the second. There is little of it, so that several workgroups are resident.
override MEETING: u32 = 512u;

override PARTS: u32 = WG / LANES;
// Parts that meet without workgroup memory, a power of two: those of a subgroup on every adapter of this kind, or of a team.
override MERGED: u32 = 1u;
// Heads that come together at a time.
override AT_ONCE: u32 = select(2u, 4u, MERGED > 1u && HEADS > 2u);

var<workgroup> meeting: array<vec4<f32>, MEETING>;

fn kept8(at: u32) -> mat2x4<f32> {
    return mat2x4<f32>(meeting[at], meeting[at + 1u]);
}

fn keep8(at: u32, x: mat2x4<f32>) {
    meeting[at] = x[0];
    meeting[at + 1u] = x[1];
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
fn settle(head: u32, v: u32, row: u32, split: u32, splits: u32) {
    let level = level_of(head);
    var sum = vec4<f32>(0.0);
    var total = 0.0;
    for (var i = 0u; i < PARTS / MERGED; i++) {
        let decay = decay_of(i, head, level);
        total += decay * total_of(i, head);
        sum += decay * meeting[2u * (i * AT_ONCE + head % AT_ONCE) * LANES + v];
    }
    put_found(row + head, v, split, splits, sum, level, total);
}

// What all parts found of the `count` query heads of a token from `head` on; all call. Sums take the place of rows: those of
// teams (found_teams) at once, so all must have read them, those of parts when all have come.
fn deliver(lane: u32, own: Found, t: u32, head: u32, count: u32, split: u32, splits: u32) {
    let sums = to_meet(lane, own);
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
                settle(own_head, v, row, split, splits);
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
