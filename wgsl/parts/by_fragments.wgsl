// What over_tiles does with a tile of 16 keys by products of fragments, once scores are there: lane 4 g + t has those of keys 2 g
// and 2 g + 1 with query head t, and adds up values of that head as found_teams has them. Weights are two halves each, what one
// holds and what is lacking; sums are made in f32.
// Needs Range, UNSEEN, LOWEST (found); Found (found_teams); Values, Weights, with_four, weights_of, greatest_scale, numbers_of,
// IS_SCALED (codes_fragments, halves_fragments); leading (queries_halves); across4, from_lane, any_lane (lanes_*).

// The keys of a team of 32 among those that are taken at once.
fn tile_of(lane: u32) -> u32 {
    return 16u * (lane / 32u);
}

// Of this lane's two keys with its query head.
alias Score = vec2<f32>;

// Sums of four tiles of rows: of lane 4 g + t two each, as products have them.
struct Four { a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32> }

// `level` is what weights are relative to, a power of two of it, so that none times its value's scale is more than a half
// can hold; `total` is the sum of this lane's own weights, `taken` that of weights times scales.
struct Sums { first: Four, last: Four, taken: vec2<f32>, level: f32, total: f32 }

// The greatest weight times scale, and what it is when weights get a new level.
const MOST: f32 = 32768.0;
const LIFT: f32 = 7.0;
// Exponents of weights that get a new level would overflow.
const STEEP: f32 = 120.0;
// A scale may be 0, but its key's weight counts.
const LEAST: f32 = 7.888609e-31;

fn nothing_yet() -> Sums {
    var x = Sums();
    x.level = LOWEST;
    return x;
}

fn scaled(x: Four, by: f32) -> Four {
    return Four(by * x.a, by * x.b, by * x.c, by * x.d);
}

// The weights of this lane's keys as a factor of products: lane 4 n + t is given those of keys 4 t to 4 t + 3 with head n / 2:
// what halves hold of them if n is even, else what is lacking.
fn factor_of(weights: vec2<f32>, lane: u32) -> vec2<u32> {
    let near = leading(weights);
    let held = pack2x16float(near);
    let lacking = pack2x16float(weights - near);
    // n is odd where lacking is wanted, as is g of a lane that gives it first: so each is asked for one thing at a time.
    let is_odd = (lane & 4u) != 0u;
    let giver = (lane & ~31u) + 8u * (lane & 3u) + ((lane & 24u) >> 3u) + select(0u, 4u, is_odd);
    let one = from_lane(lane, select(held, lacking, is_odd), giver);
    let other = from_lane(lane, select(lacking, held, is_odd), giver ^ 4u);
    return select(vec2<u32>(one, other), vec2<u32>(other, one), is_odd);
}

// With a tile's values, from position j on.
fn with_values(before: Sums, own: Score, v: Values, j: u32, r: Range, h: u32, lane: u32) -> Sums {
    let at = vec2<u32>(j + (lane & 28u) / 2u) + vec2<u32>(0u, 1u);
    let seen = (at >= vec2<u32>(r.seen)) & (at < vec2<u32>(r.stored));
    let score = select(vec2<f32>(UNSEEN), own, seen);
    let scale = max(greatest_scale(v, seen, h), vec2<f32>(LEAST));
    var x = before;
    var weight = exp2(min(score - x.level, vec2<f32>(STEEP)));
    let reach = weight * scale;
    if any_lane(max(reach.x, reach.y) > MOST) {
        let levels = score + log2(scale) - LIFT;
        var level = vec4<f32>(max(x.level, max(levels.x, levels.y)));
        level = max(level, across4(lane, level, 4u));
        level = max(level, across4(lane, level, 8u));
        level = max(level, across4(lane, level, 16u));
        let decay = exp2(x.level - level.x);
        x = Sums(scaled(x.first, decay), scaled(x.last, decay), decay * x.taken, level.x, decay * x.total);
        weight = exp2(score - level.x);
    }
    weight = select(vec2<f32>(), weight, seen);
    x.total += weight.x + weight.y;
    let weights = weights_of(v, weight, seen, h);
    let first = factor_of(weights.first, lane);
    x.taken.x += weights.first.x + weights.first.y;
    x.first = with_four(x.first, v.first, first, (lane & 31u) / 4u, lane);
    if LANES == 16u {
        var last = first;
        if IS_SCALED {
            last = factor_of(weights.last, lane);
            x.taken.y += weights.last.x + weights.last.y;
        }
        x.last = with_four(x.last, v.last, last, 8u + (lane & 31u) / 4u, lane);
    }
    return x;
}

// Of all keys of the team.
fn found_by(x: Sums, lane: u32, c: u32) -> Found {
    var sums = vec4<f32>(x.taken, x.total, 0.0);
    sums += across4(lane, sums, 4u);
    sums += across4(lane, sums, 8u);
    sums += across4(lane, sums, 16u);
    let ln_2 = 0.6931471805599453;
    return Found(numbers_of(x.first, sums.x), numbers_of(x.last, sums.y), ln_2 * x.level, sums.z);
}
