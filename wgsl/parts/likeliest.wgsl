// The greatest of the n values four(0), four(1), .. by a workgroup of WG invocations, the first of equals; its index is NONE if
// no value is a number. Every invocation gets the result, and with it what it has seen itself; all must call.
// Teams of 32 invocations own runs of indices, and each team's neighbours read neighbours. Four loads of four values are in
// flight at a time.

const TEAM: u32 = 32u;
override WG: u32 = 256u;

const NOTHING: f32 = -3.0e38;
const NONE: u32 = 0xffffffffu;

var<workgroup> values: array<f32, WG>;
var<workgroup> indices: array<u32, WG>;

struct Likeliest {
    value: f32,
    index: u32,
    // Of the invocation's own values the greatest, and with a scale the sum of their weights relative to it.
    own: f32,
    weight: f32,
}

struct Sixteen { a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32> }

// four(i), four(i + step), .. and two more, for i < end; "nothing" from `end` on.
fn sixteen(i: u32, step: u32, end: u32) -> Sixteen {
    let nothing = vec4<f32>(NOTHING);
    let k = vec4<u32>(i, i + step, i + 2u * step, i + 3u * step);
    let j = min(k, vec4<u32>(end - 1u));
    let x = Sixteen(four(j.x), four(j.y), four(j.z), four(j.w));
    return Sixteen(
        x.a,
        select(nothing, x.b, k.y < end),
        select(nothing, x.c, k.z < end),
        select(nothing, x.d, k.w < end),
    );
}

// How many fours a team owns, but for the last.
fn team_run(fours: u32) -> u32 {
    return (fours + WG / TEAM - 1u) / (WG / TEAM);
}

// Where an invocation begins among the fours, and where its team ends: it takes every TEAM-th.
fn own_fours(lane: u32, fours: u32) -> vec2<u32> {
    let run = team_run(fours);
    let first = lane / TEAM * run;
    return vec2<u32>(first + lane % TEAM, min(first + run, fours));
}

// exp(scale (x - to)), never quite zero unless x is "nothing".
fn relative(x: f32, to: f32, scale: f32) -> f32 {
    let p = exp(max(max(x - to, -1.0e5) * scale, -87.0));
    return select(0.0, p, x > -1.0e38);
}

fn relative4(x: vec4<f32>, to: f32, scale: f32) -> vec4<f32> {
    let p = exp(max(max(x - vec4<f32>(to), vec4<f32>(-1.0e5)) * scale, vec4<f32>(-87.0)));
    return select(vec4<f32>(0.0), p, x > vec4<f32>(-1.0e38));
}

// Without a scale nothing is weighed.
fn likeliest(lane: u32, n: u32, scale: f32) -> Likeliest {
    let fours = (n + 3u) / 4u;
    let own = own_fours(lane, fours);
    var best = vec4<f32>(NOTHING);
    var at = vec4<u32>(min(lane, fours - 1u));
    var top = NOTHING;
    var weights = vec4<f32>(0.0);
    for (var i = own.x; i < own.y; i += 4u * TEAM) {
        let x = sixteen(i, TEAM, own.y);
        at = select(at, vec4<u32>(i), x.a > best);
        best = max(best, x.a);
        at = select(at, vec4<u32>(i + TEAM), x.b > best);
        best = max(best, x.b);
        at = select(at, vec4<u32>(i + 2u * TEAM), x.c > best);
        best = max(best, x.c);
        at = select(at, vec4<u32>(i + 3u * TEAM), x.d > best);
        best = max(best, x.d);
        if scale > 0.0 {
            let before = top;
            top = max(max(best.x, best.y), max(best.z, best.w));
            weights = relative(before, top, scale) * weights
                + ((relative4(x.a, top, scale) + relative4(x.b, top, scale))
                    + (relative4(x.c, top, scale) + relative4(x.d, top, scale)));
        }
    }
    let value = max(max(best.x, best.y), max(best.z, best.w));
    let places = select(vec4<u32>(NONE), 4u * at + vec4<u32>(0u, 1u, 2u, 3u), best == vec4<f32>(value));
    values[lane] = value;
    indices[lane] = min(min(places.x, places.y), min(places.z, places.w));
    for (var half = WG / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half {
            let other = values[lane + half];
            let other_index = indices[lane + half];
            if other > values[lane] || (other == values[lane] && other_index < indices[lane]) {
                values[lane] = other;
                indices[lane] = other_index;
            }
        }
    }
    workgroupBarrier();
    let index = select(NONE, min(indices[0], n - 1u), values[0] > NOTHING);
    let result = Likeliest(values[0], index, value, (weights.x + weights.y) + (weights.z + weights.w));
    workgroupBarrier();
    return result;
}
