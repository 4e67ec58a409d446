// What the teams of a workgroup find by products of fragments, 32 invocations some keys together: lane 4 g + t 8 values of
// query head t that lane g of a part has elsewhere, of heads of more than 64 values those of lane g + 8 as well.
// Needs from_lane4 (lanes_*); keep8, PARTS, MERGED, AT_ONCE (meet); LANES, HEADS (found).

// Invocations that find together.
const TOGETHER: u32 = 32u;
override ENDS: u32 = 4u * (PARTS / MERGED);

// Of each team, for every head: what its weights are relative to, and their sum.
var<workgroup> levels: array<f32, ENDS>;
var<workgroup> totals: array<f32, ENDS>;

// Weights are relative to exp(greatest).
struct Found { first: mat2x4<f32>, last: mat2x4<f32>, greatest: f32, total: f32 }

// Lane c's 8 values of a head of the team's first part.
fn from_part(lane: u32, x: mat2x4<f32>, c: u32) -> mat2x4<f32> {
    let giver = (lane & ~31u) + c;
    return mat2x4<f32>(from_lane4(lane, x[0], giver), from_lane4(lane, x[1], giver));
}

// With one more key, whose scores all lanes know, and whose value lies in the lanes of each part, if it counts for this team.
fn with_key(lane: u32, before: Found, score: vec4<f32>, value: mat2x4<f32>, counts: bool) -> Found {
    let own = score[lane & 3u];
    let higher = select(before.greatest, max(before.greatest, own), counts);
    let decay = exp(before.greatest - higher);
    let weight = select(0.0, exp(own - higher), counts);
    let g = (lane & 31u) / 4u;
    var found = before;
    found.first = decay * before.first + weight * from_part(lane, value, g);
    if LANES == 16u {
        found.last = decay * before.last + weight * from_part(lane, value, 8u + g);
    }
    found.greatest = higher;
    found.total = decay * before.total + weight;
    return found;
}

// Sums as they meet. A team tells what they are relative to and waits for none: who adds them up weighs them.
fn to_meet(lane: u32, own: Found) -> Found {
    if (lane & 28u) == 0u {
        let at = 4u * (lane / TOGETHER) + (lane & 3u);
        levels[at] = own.greatest;
        totals[at] = own.total;
    }
    return own;
}

// All heads come together at once.
fn meet(lane: u32, first: u32, sums: Found) {
    let t = lane & 3u;
    if t >= HEADS {
        return;
    }
    let at = (lane / TOGETHER * AT_ONCE + t) * LANES + (lane & 31u) / 4u;
    keep8(2u * at, sums.first);
    if LANES == 16u {
        keep8(2u * at + 16u, sums.last);
    }
}

fn level_of(head: u32) -> f32 {
    var level = levels[head];
    for (var i = 1u; i < PARTS / MERGED; i++) {
        level = max(level, levels[4u * i + head]);
    }
    return level;
}

// What a team's sums are to be multiplied by.
fn decay_of(i: u32, head: u32, level: f32) -> f32 {
    return exp(levels[4u * i + head] - level);
}

fn total_of(i: u32, head: u32) -> f32 {
    return totals[4u * i + head];
}
