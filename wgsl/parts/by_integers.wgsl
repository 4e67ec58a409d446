// What over_keys does with a tile of packed keys, by integer products of 4 bytes, on GPUs with subgroups. A quarter of a
// part's LANES invocations, a team, multiplies a key, 32 values a lane, so that sums over lanes are short; and each lane
// ends up with the score of one head (of two, if a team is two lanes). Values are added as in by_floats, 8 a lane, but
// each lane takes keys and heads in an order of its own, its own first: so all weights come from lanes at constant
// distances, and a lane knows which group of values its weight is for.
// Needs Range, Found, SLACK (found); with_value, rescaled, UNSEEN, LOWEST (over_keys); PAGE (pages); Words, key32, value8
// (generated); group_of, key_scales, value_scales, scale_in (packed8); values8 (codes8); planes, Own (queries_int); dot_planes;
// subgroups (lanes_subgroup).

override TEAM: u32 = LANES / 4u;
// Lanes of a team at this distance have heads two further on, or the next; 0 where a lane has both.
override TWO_ON: u32 = TEAM / 2u;
override ONE_ON: u32 = TEAM / 4u;

// A lane's 32 values of a key, and the word that their scale is in.
struct Share { words: Words, scales: u32 }

fn share_of(row: u32, h: u32, l: u32) -> Share {
    let at = row * params.key_words;
    return Share(key32(at + h * KEY_HEAD, l), key_scales(at, group_of(h, 4u * l)));
}

// Four values of a part, in this lane's order, and the words that scales of its own key are in.
struct Four { a: vec2<u32>, b: vec2<u32>, c: vec2<u32>, d: vec2<u32>, scales: vec4<u32> }

// Of the four rows from `first` on.
fn four_values(first: u32, own: u32, h: u32, c: u32) -> Four {
    let at = params.value_words * first + h * VALUE_HEAD;
    return Four(
        value8(at + params.value_words * own, c),
        value8(at + params.value_words * (own ^ 1u), c),
        value8(at + params.value_words * (own ^ 2u), c),
        value8(at + params.value_words * (own ^ 3u), c),
        scales_at(params.value_words * (first + own), h, c),
    );
}

// The group of the values of the lane that takes what this lane finds for its own key as its i-th.
fn group_for(h: u32, c: u32, i: u32) -> u32 {
    return group_of(h, c ^ (TEAM * i));
}

fn scales_at(at: u32, h: u32, c: u32) -> vec4<u32> {
    let first = value_scales(at, group_for(h, c, 0u));
    if GROUPS <= 2u {
        return vec4<u32>(first);
    }
    return vec4<u32>(
        first,
        value_scales(at, group_for(h, c, 1u)),
        value_scales(at, group_for(h, c, 2u)),
        value_scales(at, group_for(h, c, 3u)),
    );
}

// What a lane has of a part's four keys.
struct Tile { k: Share, v: Four }

// From position j on, in this page. What lies past the last is read as well: codes are numbers.
fn tile_at(page: u32, j: u32, last: u32, h: u32, c: u32) -> Tile {
    let first = page * PAGE + j % PAGE;
    return Tile(share_of(first + c / TEAM, h, c % TEAM), four_values(first, c / TEAM, h, c));
}

// A lane's 32 codes of a key, four in a word: the first and the last four of each 8. Those of 8 bits are less their zero.
struct Bytes { first: vec4<u32>, last: vec4<u32> }

fn bytes_of(words: Words) -> Bytes {
    if KEY_BITS == 8u {
        let x = words.a ^ vec4<u32>(0x80808080u);
        let y = words.b ^ vec4<u32>(0x80808080u);
        return Bytes(vec4<u32>(x.xz, y.xz), vec4<u32>(x.yw, y.yw));
    }
    return Bytes(words.a & vec4<u32>(0x0f0f0f0fu), (words.a >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu));
}

// This lane's share of its key's score with one query head, but for the scale.
fn whole_score(head: u32, l: u32, key: Bytes, zero: i32) -> f32 {
    let first = head * LANES + l;
    let sum = dot_planes(
        key.first,
        key.last,
        planes[first],
        planes[first + TEAM],
        planes[first + 2u * TEAM],
        planes[first + 3u * TEAM],
    );
    return f32(sum + zero);
}

fn scores(zeros: vec4<i32>, key: Share, h: u32, l: u32) -> vec4<f32> {
    let bytes = bytes_of(key.words);
    var sums = vec4<f32>(whole_score(0u, l, bytes, zeros.x), 0.0, 0.0, 0.0);
    if HEADS > 1u { sums.y = whole_score(1u, l, bytes, zeros.y); }
    if HEADS > 2u { sums.z = whole_score(2u, l, bytes, zeros.z); }
    if HEADS > 3u { sums.w = whole_score(3u, l, bytes, zeros.w); }
    return scale_in(key.scales, group_of(h, 4u * l)) * sums;
}

// Sums over a team, of which each lane keeps those of its own heads.
fn team_sums(l: u32, x: vec4<f32>) -> vec2<f32> {
    let upper = (l & TWO_ON) != 0u;
    var two = x.xy;
    if HEADS > 2u {
        two = select(x.xy, x.zw, upper) + subgroupShuffleXor(select(x.zw, x.xy, upper), TWO_ON);
    } else {
        two += subgroupShuffleXor(two, TWO_ON);
    }
    if TEAM == 2u {
        return two;
    }
    let odd = (l & ONE_ON) != 0u;
    var one = two.x;
    if HEADS > 1u {
        one = select(two.x, two.y, odd) + subgroupShuffleXor(select(two.y, two.x, odd), ONE_ON);
    } else {
        one += subgroupShuffleXor(one, ONE_ON);
    }
    for (var distance = ONE_ON / 2u; distance > 0u; distance /= 2u) {
        one += subgroupShuffleXor(one, distance);
    }
    return vec2<f32>(one, 0.0);
}

// What lanes of a key have for their own heads, for all heads in this lane's order; `key` is the distance of its lanes.
fn all_heads(own: vec2<f32>, key: u32) -> vec4<f32> {
    if TEAM == 2u {
        let here = subgroupShuffleXor(own, key);
        if HEADS <= 2u {
            return vec4<f32>(here, 0.0, 0.0);
        }
        return vec4<f32>(here, subgroupShuffleXor(own, key + 1u));
    }
    var all = vec4<f32>(subgroupShuffleXor(own.x, key), 0.0, 0.0, 0.0);
    if HEADS > 1u {
        all.y = subgroupShuffleXor(own.x, key + ONE_ON);
    }
    if HEADS > 2u {
        all.z = subgroupShuffleXor(own.x, key + TWO_ON);
        all.w = subgroupShuffleXor(own.x, key + TWO_ON + ONE_ON);
    }
    return all;
}

alias Score = vec2<f32>;

// What a lane has found so far, with heads in its order; weights are of its own, relative to exp2(greatest).
struct Sums { a: mat2x4<f32>, b: mat2x4<f32>, c: mat2x4<f32>, d: mat2x4<f32>, greatest: vec2<f32>, total: vec2<f32> }

fn exceeds(score: vec2<f32>, greatest: vec2<f32>) -> bool {
    return score.x > greatest.x + SLACK || (TEAM == 2u && score.y > greatest.y + SLACK);
}

// Of this lane's key and its own heads.
fn scores_of(tile: Tile, own: Own, lane: u32, h: u32, c: u32) -> Score {
    return own.unit * team_sums(c % TEAM, scores(own.zeros, tile.k, h, c % TEAM));
}

// With a tile's values, from position j on.
fn with_values(
    before: Sums, own_score: Score, tile: Tile, j: u32, r: Range, own: Own, lane: u32, h: u32, c: u32,
) -> Sums {
    let at = j + c / TEAM;
    let seen = at >= r.seen && at < r.stored;
    let score = select(vec2<f32>(UNSEEN), own_score, seen);
    let v = tile.v;
    var x = before;
    if subgroupAny(exceeds(score, x.greatest)) {
        var higher = max(x.greatest, score);
        higher = max(higher, subgroupShuffleXor(higher, TEAM));
        higher = max(higher, subgroupShuffleXor(higher, 2u * TEAM));
        let own_decay = exp2(x.greatest - higher);
        x.greatest = higher;
        x.total *= own_decay;
        x = rescaled(x, all_heads(own_decay, 0u));
    }
    let none = vec2<f32>(0.0);
    let weight = select(none, exp2(score - x.greatest), seen);
    x.total += weight;
    // What is not seen may have any scale.
    let w0 = select(none, weight * scale_in(v.scales[0], group_for(h, c, 0u)), seen);
    var w1 = w0;
    var w2 = w0;
    var w3 = w0;
    if GROUPS > 1u {
        w2 = select(none, weight * scale_in(v.scales[2], group_for(h, c, 2u)), seen);
        w3 = w2;
    }
    if GROUPS > 2u {
        w1 = select(none, weight * scale_in(v.scales[1], group_for(h, c, 1u)), seen);
        w3 = select(none, weight * scale_in(v.scales[3], group_for(h, c, 3u)), seen);
    }
    x = with_value(x, all_heads(w0, 0u), values8(v.a, c));
    x = with_value(x, all_heads(w1, TEAM), values8(v.b, c));
    x = with_value(x, all_heads(w2, 2u * TEAM), values8(v.c, c));
    return with_value(x, all_heads(w3, 3u * TEAM), values8(v.d, c));
}

fn in_order(l: u32, x: Found) -> Found {
    var y = x;
    if HEADS > 2u && (l & TWO_ON) != 0u {
        y = Found(x.c, x.d, x.a, x.b, x.greatest.zwxy, x.total.zwxy);
    }
    if HEADS > 1u && (l & ONE_ON) != 0u {
        return Found(y.b, y.a, y.d, y.c, y.greatest.yxwz, y.total.yxwz);
    }
    return y;
}

fn nothing_yet() -> Sums {
    var x = Sums();
    x.greatest = vec2<f32>(LOWEST);
    return x;
}

// Of all lanes, with heads in their order again.
fn found_by(x: Sums, lane: u32, c: u32) -> Found {
    var total = x.total + subgroupShuffleXor(x.total, TEAM);
    total += subgroupShuffleXor(total, 2u * TEAM);
    let ln_2 = 0.6931471805599453;
    return in_order(c % TEAM, Found(x.a, x.b, x.c, x.d, ln_2 * all_heads(x.greatest, 0u), all_heads(total, 0u)));
}
