// x as it is, for dense weights. Invocation `member` of a team has units member, member + TEAM, .. of 8 values: SPAN of
// them, zeros past the end.
// Parts: SPAN, Fetched, value8, gained8 (fetch_floats), unpack8 (weight_*).

struct Held { a: mat2x4<f32>, b: mat2x4<f32>, c: mat2x4<f32>, d: mat2x4<f32> }

var<private> kept: Held;

fn gained(x: mat2x4<f32>, i: u32) -> mat2x4<f32> {
    return gained8(x, gain8(min(i, params.units - 1u)));
}

// What is asked for later comes later: before weights.
fn fetch_x(lane: u32) {
    let member = lane % TEAM;
    kept.a = value8(0u, member);
    if SPAN > 1u {
        kept.b = value8(0u, member + TEAM);
    }
    if SPAN > 2u {
        kept.c = value8(0u, member + 2u * TEAM);
        kept.d = value8(0u, member + 3u * TEAM);
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
