// What over_keys does with a tile, in f32: 8 values of each of a part's four keys in an invocation, sums of products
// over the part's lanes.
// Needs Range, SLACK (found); Found (found_parts); UNSEEN, LOWEST (found); with_value, rescaled (sums); PAGE (pages);
// Eight, place_of, key_at, value_at, scores, weighted, numbers8 (floats8 with cache8_*, packed_floats); across4, spread4,
// base_lane, any_lane (lanes_*).

// Four keys or values of a part, as they are stored.
struct Four { a: Eight, b: Eight, c: Eight, d: Eight }

// Where they are: from position j on, a multiple of 4, none past the last, in this page.
fn places_of(page: u32, j: u32, last: u32, h: u32, c: u32) -> vec4<u32> {
    let rows = min(vec4<u32>(j) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(last)) % PAGE + page * PAGE;
    return vec4<u32>(place_of(rows.x, h, c), place_of(rows.y, h, c), place_of(rows.z, h, c), place_of(rows.w, h, c));
}

fn four_keys(at: vec4<u32>, h: u32, c: u32) -> Four {
    return Four(key_at(at.x, h, c), key_at(at.y, h, c), key_at(at.z, h, c), key_at(at.w, h, c));
}

fn four_values(at: vec4<u32>, h: u32, c: u32) -> Four {
    return Four(value_at(at.x, h, c), value_at(at.y, h, c), value_at(at.z, h, c), value_at(at.w, h, c));
}

struct Tile { k: Four, v: Four }

fn tile_at(page: u32, j: u32, last: u32, h: u32, c: u32) -> Tile {
    let at = places_of(page, j, last, h, c);
    return Tile(four_keys(at, h, c), four_values(at, h, c));
}

alias Score = vec4<f32>;
alias Sums = Found;

fn nothing_yet() -> Sums {
    var x = Sums();
    x.greatest = vec4<f32>(LOWEST);
    return x;
}

// What a lane needs to know besides: the first of its part's.
struct Own { base: u32 }

fn own_of_lane(lane: u32) -> Own {
    return Own(base_lane(lane));
}

fn with_rows(own: Own, c: u32) -> Own {
    return own;
}

// Scores of the key that a lane goes on with.
fn scores_of(tile: Tile, own: Own, lane: u32, h: u32, c: u32) -> Score {
    let s0 = scores(tile.k.a, h, c);
    let s1 = scores(tile.k.b, h, c);
    let s2 = scores(tile.k.c, h, c);
    let s3 = scores(tile.k.d, h, c);
    // Sums over the lanes, each half of which goes on with half of the keys.
    let upper = (c & (LANES / 2u)) != 0u;
    let odd = (c & (LANES / 4u)) != 0u;
    let even_sum = select(s0, s2, upper) + across4(lane, select(s2, s0, upper), LANES / 2u);
    let odd_sum = select(s1, s3, upper) + across4(lane, select(s3, s1, upper), LANES / 2u);
    var score = select(even_sum, odd_sum, odd) + across4(lane, select(odd_sum, even_sum, odd), LANES / 4u);
    for (var distance = LANES / 8u; distance > 0u; distance /= 2u) {
        score += across4(lane, score, distance);
    }
    return score;
}

// With a tile's values, from position j on.
fn with_values(
    before: Sums, own_score: Score, tile: Tile, j: u32, r: Range, own: Own, lane: u32, h: u32, c: u32,
) -> Sums {
    var x = before;
    let v = tile.v;
    let upper = (c & (LANES / 2u)) != 0u;
    let odd = (c & (LANES / 4u)) != 0u;
    // The key whose score this invocation has ended up with.
    let at = j + select(0u, 2u, upper) + select(0u, 1u, odd);
    let seen = at >= r.seen && at < r.stored;
    let score = select(vec4<f32>(UNSEEN), own_score, seen);
    if any_lane(any(score > x.greatest + SLACK)) {
        var higher = max(x.greatest, score);
        higher = max(higher, across4(lane, higher, LANES / 2u));
        higher = max(higher, across4(lane, higher, LANES / 4u));
        let decay = exp(x.greatest - higher);
        x.greatest = higher;
        x.total *= decay;
        x = rescaled(x, decay);
    }
    let weight = select(vec4<f32>(0.0), exp(score - x.greatest), seen);
    x.total += weight;
    let weights = spread4(lane, own.base, weight);
    x = with_value(x, weighted(weights[0], v.a, h, c), numbers8(v.a, c));
    x = with_value(x, weighted(weights[1], v.b, h, c), numbers8(v.b, c));
    x = with_value(x, weighted(weights[2], v.c, h, c), numbers8(v.c, c));
    return with_value(x, weighted(weights[3], v.d, h, c), numbers8(v.d, c));
}

// Of all lanes, every quarter of which has counted its own keys.
fn found_by(x: Sums, lane: u32, c: u32) -> Found {
    var y = x;
    y.total += across4(lane, y.total, LANES / 2u);
    y.total += across4(lane, y.total, LANES / 4u);
    return y;
}
