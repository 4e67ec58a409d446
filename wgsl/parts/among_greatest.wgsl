// A draw among the greatest of the values four(0), four(1), .. alone, no more than WG, each invocation's own: what filters
// keep is mostly there. The least that a bin of the invocations' greatest leaves says which they are, so that values are
// read again only where there are some. Weights are whole numbers: their sums do not depend on the order of additions.
// Parts: draw, likeliest, threshold.

// None is drawn: the greatest do not say what is kept.
const UNDECIDED: u32 = 0xfffffffeu;

var<workgroup> held: atomic<u32>;
var<workgroup> sum: atomic<u32>;
var<workgroup> total: atomic<u32>;
var<workgroup> dropped: atomic<u32>;

// A bit for each of four values that is less than `reach` below the greatest.
fn near(greatest: f32, reach: f32, x: vec4<f32>) -> u32 {
    let is_near = (4.0 + (vec4<f32>(greatest) - x) < vec4<f32>(reach)) & (x > vec4<f32>(-1.0e38));
    let bits = select(vec4<u32>(0u), vec4<u32>(1u, 2u, 4u, 8u), is_near);
    return (bits.x | bits.y) | (bits.z | bits.w);
}

fn hold(index: u32) {
    let at = atomicAdd(&held, 1u);
    if at < WG {
        values[at] = four(index / 4u)[index % 4u];
        indices[at] = index;
    }
}

// Which fours a listed invocation has seen as its c-th; NONE past the last.
fn seen_by(entry: u32, count: u32, c: u32, fours: u32) -> u32 {
    let own = own_fours(list[min(entry, count - 1u)], fours);
    let i = own.x + c * TEAM;
    return select(NONE, i, entry < count && i < own.y);
}

// The values of whose bin, or a lower one, at least `wanted` invocations have their greatest; how many there are.
fn hold_greatest(lane: u32, own: f32, f: Filter, wanted: u32) -> u32 {
    let s = Search(NOTHING, 0.0, 0u, 0u, 0u);
    let fours = (f.n + 3u) / 4u;
    clear_bins(lane);
    tally(f, s, own);
    let edge = cut(lane, 0u, wanted).x;
    if lane == 0u {
        atomicStore(&listed, 0u);
        atomicStore(&held, 0u);
        atomicStore(&sum, 0u);
        atomicStore(&total, 0u);
        atomicStore(&dropped, 0u);
    }
    workgroupBarrier();
    if bin(f, s, own) <= edge {
        list[atomicAdd(&listed, 1u)] = lane;
    }
    workgroupBarrier();
    let count = agreed(lane, atomicLoad(&listed));
    // Where the bin ends; the last has no end.
    let reach = select(3.0e38, bitcast<f32>(((edge + 1u) << SHIFT) + 0x40800000u), edge + 1u < BINS);
    let each = (team_run(fours) + TEAM - 1u) / TEAM;
    let teams_here = WG / TEAM;
    for (var entry = lane / TEAM; entry < count; entry += 4u * teams_here) {
        for (var c = lane % TEAM; c < each; c += TEAM) {
            let i = vec4<u32>(
                seen_by(entry, count, c, fours),
                seen_by(entry + teams_here, count, c, fours),
                seen_by(entry + 2u * teams_here, count, c, fours),
                seen_by(entry + 3u * teams_here, count, c, fours),
            );
            let at = min(i, vec4<u32>(fours - 1u));
            let x = Sixteen(four(at.x), four(at.y), four(at.z), four(at.w));
            let bits = vec4<u32>(
                near(f.greatest, reach, x.a),
                near(f.greatest, reach, x.b),
                near(f.greatest, reach, x.c),
                near(f.greatest, reach, x.d),
            );
            let inside = select(vec4<u32>(0u), bits << vec4<u32>(0u, 4u, 8u, 12u), i != vec4<u32>(NONE));
            var left = (inside.x | inside.y) | (inside.z | inside.w);
            while left != 0u {
                let bit = firstTrailingBit(left);
                left &= left - 1u;
                let k = select(select(i.x, i.y, bit >= 4u), select(i.z, i.w, bit >= 12u), bit >= 8u);
                hold(4u * k + bit % 4u);
            }
        }
    }
    workgroupBarrier();
    return agreed(lane, atomicLoad(&held));
}

// One, and the amount, of a held value that is greater.
fn beyond(i: u32, x: f32) -> vec2<u32> {
    return select(vec2<u32>(0u), vec2<u32>(1u, list[i]), values[i] > x);
}

// The amount of a held value that comes first.
fn ahead(i: u32, index: u32) -> u32 {
    return select(0u, list[i], indices[i] < index);
}

// `top_k` is at most WG / 2; if it is 0, `all` is the weight of all values.
fn among_greatest(lane: u32, best: Likeliest, f: Filter, top_k: u32, top_p: f32, all: f32, u: f32) -> u32 {
    let count = hold_greatest(lane, best.own, f, max(WG / 4u, top_k));
    if count == 0u || count > WG {
        return UNDECIDED;
    }
    let unit = 2147483648.0 / select(min(all, f32(count)), f32(count), top_k > 0u);
    let is_held = lane < count;
    let x = select(NOTHING, values[lane], is_held);
    let index = indices[lane];
    var amount = select(0u, u32(weight(f, x) * unit + 0.5), is_held);
    // Past the last there is nothing, so that all go around in whole blocks.
    values[lane] = x;
    list[lane] = amount;
    workgroupBarrier();
    var above = vec2<u32>(0u);
    for (var i = 0u; is_held && i < count; i += 8u) {
        above += ((beyond(i, x) + beyond(i + 1u, x)) + (beyond(i + 2u, x) + beyond(i + 3u, x)))
            + ((beyond(i + 4u, x) + beyond(i + 5u, x)) + (beyond(i + 6u, x) + beyond(i + 7u, x)));
    }
    var is_kept = is_held && (top_k == 0u || above.x < top_k);
    if is_kept && top_k > 0u {
        atomicAdd(&sum, amount);
    }
    workgroupBarrier();
    let among = select(all * unit, f32(atomicLoad(&sum)), top_k > 0u);
    is_kept = is_kept && (top_p >= 1.0 || f32(above.y) < top_p * among) && weight(f, x) >= f.min_p;
    amount = select(0u, amount, is_kept);
    list[lane] = amount;
    if is_kept {
        atomicAdd(&total, amount);
    } else if is_held {
        atomicStore(&dropped, 1u);
    }
    workgroupBarrier();
    // Filters keep nothing that is less than what they drop.
    if agreed(lane, atomicLoad(&dropped)) == 0u && (top_k == 0u || top_k > count) {
        return UNDECIDED;
    }
    var before = 0u;
    for (var i = 0u; is_kept && i < count; i += 8u) {
        before += ((ahead(i, index) + ahead(i + 1u, index)) + (ahead(i + 2u, index) + ahead(i + 3u, index)))
            + ((ahead(i + 4u, index) + ahead(i + 5u, index)) + (ahead(i + 6u, index) + ahead(i + 7u, index)));
    }
    let weighed = atomicLoad(&total);
    let goal = min(u32(u * f32(weighed)), max(weighed, 1u) - 1u);
    if is_kept && before <= goal && goal < before + amount {
        drawn = index;
    }
    workgroupBarrier();
    return workgroupUniformLoad(&drawn);
}
