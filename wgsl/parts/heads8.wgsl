// Heads as a linear layer gives them, 8 values at a time, and what is done to them: a norm, and a turn, by which
// pairs (a, b) become (a cos - b sin, b cos + a sin). Cosine and sine of each token's angles are in `angles`,
// params.half of them per token. Needs across4 (lanes_*) and q4, k4, v4.

override NORM: u32 = 0u;
override INTERLEAVED: u32 = 0u;
// Angles of all tokens, and room.
override ANGLES: u32 = 64u;

var<workgroup> angles: array<vec2<f32>, ANGLES>;

// 8 values of a head, and the 8 that they turn with.
struct Pairs { own: mat2x4<f32>, other: mat2x4<f32> }

// Cosines, and sines with the sign that the other values take.
struct Turn { cosine: mat2x4<f32>, sine: mat2x4<f32> }

// The lane whose values those of lane c turn with; c itself past what turns, and where neighbours turn.
fn other_of(c: u32) -> u32 {
    let lanes = params.half / 8u;
    if INTERLEAVED != 0u || c >= 2u * lanes {
        return c;
    }
    return select(c - lanes, c + lanes, c < lanes);
}

fn others(own: mat2x4<f32>, from_other: mat2x4<f32>) -> mat2x4<f32> {
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

// Lane c's values of a token's query head, if row < HEADS, or of its key, or of its value.
fn head8(row: u32, t: u32, h: u32, head: u32, c: u32) -> mat2x4<f32> {
    if c >= params.eights {
        return mat2x4<f32>();
    }
    let kv_head = t * params.kv_pitch + 2u * (h * params.eights + c);
    if row < HEADS {
        let at = t * params.q_pitch + 2u * (head * params.eights + c);
        return mat2x4<f32>(q4(at), q4(at + 1u));
    }
    if row == HEADS {
        let at = params.k_first + kv_head;
        return mat2x4<f32>(k4(at), k4(at + 1u));
    }
    let at = params.v_first + kv_head;
    return mat2x4<f32>(v4(at), v4(at + 1u));
}

// The same with those that they turn with.
fn row_of(row: u32, t: u32, h: u32, head: u32, c: u32) -> Pairs {
    let own = head8(row, t, h, head, c);
    return Pairs(own, others(own, head8(row, t, h, head, other_of(c))));
}

fn gains(own: mat2x4<f32>, from_other: mat2x4<f32>) -> Pairs {
    return Pairs(own, others(own, from_other));
}

// 1 / root mean square of a head, or 1 if heads are not normed.
fn inverse_rms(lane: u32, own: mat2x4<f32>) -> f32 {
    if NORM == 0u {
        return 1.0;
    }
    let sum = over_lanes(lane, vec4<f32>(dot(own[0], own[0]) + dot(own[1], own[1])));
    return inverseSqrt(sum.x / f32(8u * params.eights) + params.eps);
}

// Sums over the LANES neighbours that cover a head.
fn over_lanes(lane: u32, own: vec4<f32>) -> vec4<f32> {
    var sum = own;
    for (var distance = LANES / 2u; distance > 0u; distance /= 2u) {
        sum += across4(lane, sum, distance);
    }
    return sum;
}
