// One of the n values four(0), four(1), .., drawn by a workgroup of WG invocations: of weights
// exp(scale (x - greatest)) the top_k greatest, of these the ones whose strictly greater ones sum to less than
// top_p of them all, of these the ones no less than min_p; then the first index at which the running sum of
// what is left exceeds u of its total; NONE if no value is a number. Every invocation gets the result; all must call.
//
// What a filter keeps is mostly found among the greatest few hundred (among_greatest). Else sums of teams say in which
// team's run of indices the draw falls, and all invocations look for it there.
// Parts: likeliest, among_greatest, threshold.

var<workgroup> teams: array<f32, 32>;
var<workgroup> passed: atomic<u32>;
var<workgroup> last: atomic<u32>;
var<workgroup> drawn: u32;

// What is drawn from: the top_k greatest, 0 for all, and so on, with logits times `scale`.
struct Rules { n: u32, scale: f32, top_k: u32, top_p: f32, min_p: f32 }

// Whether a draw begins with the weight of all values.
fn weighs_all(rules: Rules) -> bool {
    return rules.top_k == 0u && (rules.top_p < 1.0 || rules.min_p <= 0.0);
}

struct Filter { n: u32, scale: f32, greatest: f32, min_p: f32, least: u32 }

// Greater floats have greater keys; zeros are equal.
fn key(x: f32) -> u32 {
    let bits = select(bitcast<u32>(x), 0u, x == 0.0);
    return select(bits | 0x80000000u, ~bits, (bits & 0x80000000u) != 0u);
}

fn weight(f: Filter, x: f32) -> f32 {
    return relative(x, f.greatest, f.scale);
}

fn kept(f: Filter, x: f32) -> f32 {
    let p = weight(f, x);
    return select(0.0, p, key(x) >= f.least && p >= f.min_p);
}

fn kept4(f: Filter, x: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(kept(f, x.x), kept(f, x.y), kept(f, x.z), kept(f, x.w));
}

fn scan(lane: u32, own: f32) -> f32 {
    values[lane] = own;
    for (var step = 1u; step < WG; step *= 2u) {
        workgroupBarrier();
        let sum = values[lane] + select(0.0, values[max(lane, step) - step], lane >= step);
        workgroupBarrier();
        values[lane] = sum;
    }
    workgroupBarrier();
    return values[lane];
}

// Sums by teams and in all.
fn sum_teams(lane: u32, own: f32) -> f32 {
    values[lane] = own;
    workgroupBarrier();
    if lane < WG / TEAM {
        var team = 0.0;
        for (var i = 0u; i < TEAM; i++) {
            team += values[lane * TEAM + i];
        }
        teams[lane] = team;
    }
    workgroupBarrier();
    var all = 0.0;
    for (var i = 0u; i < WG / TEAM; i++) {
        all += teams[i];
    }
    return all;
}

// The weights of what is kept.
fn weigh(lane: u32, f: Filter) -> f32 {
    let own = own_fours(lane, (f.n + 3u) / 4u);
    var sum = vec4<f32>(0.0);
    for (var i = own.x; i < own.y; i += 4u * TEAM) {
        let x = sixteen(i, TEAM, own.y);
        sum += (kept4(f, x.a) + kept4(f, x.b)) + (kept4(f, x.c) + kept4(f, x.d));
    }
    return sum_teams(lane, (sum.x + sum.y) + (sum.z + sum.w));
}

// `rules` must be the same for all invocations, and known to be; `best` has weights if they say so.
fn draw(lane: u32, best: Likeliest, rules: Rules, u: f32) -> u32 {
    let index = draw_kept(lane, best, rules, u);
    // An infinite logit is chosen, and none where there is no number.
    return select(index, best.index, best.index == NONE || best.value > 3.3e38);
}

fn draw_kept(lane: u32, best: Likeliest, rules: Rules, u: f32) -> u32 {
    let top_k = rules.top_k;
    let top_p = rules.top_p;
    var f = Filter(rules.n, rules.scale, best.value, rules.min_p, 0u);
    var all = 0.0;
    if weighs_all(rules) {
        all = sum_teams(lane, best.weight * relative(best.own, f.greatest, f.scale));
    }
    // The first that there is of top_k, top_p and min_p.
    let begin = select(select(select(3u, 2u, rules.min_p > 0.0), 1u, top_p < 1.0), 0u, top_k > 0u);
    if begin < 2u && top_k <= WG / 2u {
        let index = among_greatest(lane, best, f, top_k, top_p, all, u);
        if index != UNDECIDED {
            return index;
        }
    }
    // In a loop, for what it calls is long.
    for (var i = begin; i < 3u; i++) {
        if i == 1u && top_p >= 1.0 {
            continue;
        }
        let is_last = i == 2u;
        if is_last || (i == 1u && top_k > 0u) {
            f.min_p = select(0.0, rules.min_p, is_last);
            all = weigh(lane, f);
        }
        if is_last {
            break;
        }
        var floor = NOTHING;
        var unit = 0.0;
        var wanted = top_k;
        if i == 1u {
            // Values of less than this weigh less than 1 - top_p of all even together.
            floor = max(f.greatest + log((1.0 - top_p) * all / f32(f.n)) / f.scale, NOTHING);
            unit = 2147483648.0 / all;
            wanted = max(u32(top_p * 2147483648.0), 1u);
        }
        f.least = threshold(lane, f, floor, unit, wanted);
    }
    return index_at(lane, f, u * all);
}

// Where the running sum of what is kept exceeds the goal; `teams` have their sums.
fn index_at(lane: u32, f: Filter, goal: f32) -> u32 {
    let fours = (f.n + 3u) / 4u;
    // The team in which the sum exceeds the goal; should rounding deny it, the last that keeps any.
    var team = 0u;
    var before = 0.0;
    var sum = 0.0;
    for (var i = 0u; i < WG / TEAM; i++) {
        if teams[i] > 0.0 && sum <= goal {
            team = i;
            before = sum;
            sum += teams[i];
        }
    }
    let run = team_run(fours);
    let own_run = (run + WG - 1u) / WG;
    let first = min(team * run + lane * own_run, fours);
    let end = min(min(first + own_run, (team + 1u) * run), fours);
    var own = 0.0;
    for (var i = first; i < end; i++) {
        let p = kept4(f, four(i));
        own += (p.x + p.y) + (p.z + p.w);
    }
    if lane == 0u {
        atomicStore(&passed, NONE);
        atomicStore(&last, 0u);
    }
    workgroupBarrier();
    let upto = before + scan(lane, own);
    if own > 0.0 {
        atomicMax(&last, lane);
        if upto > goal {
            atomicMin(&passed, lane);
        }
    }
    workgroupBarrier();
    if lane == min(atomicLoad(&passed), atomicLoad(&last)) {
        var running = upto - own;
        for (var i = 4u * first; i < 4u * end; i++) {
            let x = four(i / 4u);
            let p = kept(f, select(select(x.x, x.y, i % 4u == 1u), select(x.z, x.w, i % 4u == 3u), i % 4u > 1u));
            if p > 0.0 && running <= goal {
                drawn = i;
                running += p;
            }
        }
    }
    workgroupBarrier();
    return drawn;
}
