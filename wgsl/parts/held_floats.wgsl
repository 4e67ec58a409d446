// x as it is, for dense weights. Invocation `member` of a team has units member, member + TEAM, .. of 8 values: SPAN of
// them, zeros past the end.
// Parts: Raw8, raw8, unpack8 (weight_*).

// 1, 2 or 4.
override SPAN: u32 = 2u;

struct Held { a: mat2x4<f32>, b: mat2x4<f32>, c: mat2x4<f32>, d: mat2x4<f32> }

struct Fetched { a: Raw8, b: Raw8, c: Raw8, d: Raw8 }

var<private> kept: Held;

fn hold8(i: u32) -> mat2x4<f32> {
    if i >= params.units {
        return mat2x4<f32>();
    }
    return x8(0u, i);
}

fn gained(x: mat2x4<f32>, i: u32) -> mat2x4<f32> {
    let gain = gain8(min(i, params.units - 1u));
    return mat2x4<f32>(x[0] * gain[0], x[1] * gain[1]);
}

// What is asked for later comes later: before weights.
fn fetch_x(lane: u32) {
    let member = lane % TEAM;
    kept.a = hold8(member);
    if SPAN > 1u {
        kept.b = hold8(member + TEAM);
    }
    if SPAN > 2u {
        kept.c = hold8(member + 2u * TEAM);
        kept.d = hold8(member + 3u * TEAM);
    }
}

// Returns the squares of this invocation's values, which one team counts.
fn hold(lane: u32) -> f32 {
    let member = lane % TEAM;
    let own = dot8(kept.a, kept.a) + dot8(kept.b, kept.b) + dot8(kept.c, kept.c) + dot8(kept.d, kept.d);
    kept.a = gained(kept.a, member);
    if SPAN > 1u {
        kept.b = gained(kept.b, member + TEAM);
    }
    if SPAN > 2u {
        kept.c = gained(kept.c, member + 2u * TEAM);
        kept.d = gained(kept.d, member + 3u * TEAM);
    }
    return select(0.0, own, lane < TEAM);
}

fn held(member: u32, may_end: bool) -> Held {
    return kept;
}

fn fetch(row: u32, member: u32) -> Fetched {
    let last = params.units - 1u;
    var w: Fetched;
    w.a = raw8(row, min(member, last));
    if SPAN > 1u {
        w.b = raw8(row, min(member + TEAM, last));
    }
    if SPAN > 2u {
        w.c = raw8(row, min(member + 2u * TEAM, last));
        w.d = raw8(row, min(member + 3u * TEAM, last));
    }
    return w;
}

fn multiply(w: Fetched, x: Held) -> f32 {
    var sum = dot8(unpack8(w.a), x.a);
    if SPAN > 1u {
        sum += dot8(unpack8(w.b), x.b);
    }
    if SPAN > 2u {
        sum += dot8(unpack8(w.c), x.c) + dot8(unpack8(w.d), x.d);
    }
    return sum;
}
