// What over_tiles does with a tile of packed values, once its keys' scores are there. Values are added as in by_floats, 8 a
// lane, but each lane takes keys and heads in an order of its own, its own first: so all weights come from lanes at
// constant distances, and a lane knows which group of values its weight is for.
// Needs Range, SLACK (found); Found (found_parts); UNSEEN, LOWEST (found); with_value, rescaled (sums); Score, TEAM,
// TWO_ON, ONE_ON (keys_int); value8 (generated); group_of, value_scales, scale_in (scales8); raised8, excess8 (raised8);
// subgroups (lanes_subgroup).

// Four values of a part, in this lane's order, and the words that scales of its own key are in: of two groups they share one.
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
        return vec4<u32>(first, 0u, 0u, 0u);
    }
    return vec4<u32>(
        first,
        value_scales(at, group_for(h, c, 1u)),
        value_scales(at, group_for(h, c, 2u)),
        value_scales(at, group_for(h, c, 3u)),
    );
}

struct Values { near: Four, far: Four }

// What lies past the last is read as well: codes are numbers.
fn values_at(p: Place, h: u32, lane: u32) -> Values {
    let c = lane % LANES;
    return Values(four_values(p.row, c / TEAM, h, c), four_values(p.row + 4u, c / TEAM, h, c));
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
    var all = vec4<f32>(own.x, 0.0, 0.0, 0.0);
    if key != 0u {
        all.x = subgroupShuffleXor(own.x, key);
    }
    if HEADS > 1u {
        all.y = subgroupShuffleXor(own.x, key + ONE_ON);
    }
    if HEADS > 2u {
        all.z = subgroupShuffleXor(own.x, key + TWO_ON);
        all.w = subgroupShuffleXor(own.x, key + TWO_ON + ONE_ON);
    }
    return all;
}

// A key's weight, times the scales of the groups of those that take it, in this lane's order.
struct Weights { a: vec2<f32>, b: vec2<f32>, c: vec2<f32>, d: vec2<f32> }

// What is not seen may have any scale.
fn weights_of(weight: vec2<f32>, seen: bool, stored: vec4<u32>, h: u32, c: u32) -> Weights {
    let scales = select(vec4<u32>(), stored, seen);
    if GROUPS == 2u {
        let both = unpack2x16float(scales.x);
        let is_second = (group_for(h, c, 0u) & 1u) == 1u;
        let own = weight * select(both.x, both.y, is_second);
        let other = weight * select(both.y, both.x, is_second);
        return Weights(own, own, other, other);
    }
    let own = weight * scale_in(scales.x, group_for(h, c, 0u));
    if GROUPS == 1u {
        return Weights(own, own, own, own);
    }
    return Weights(
        own,
        weight * scale_in(scales.y, group_for(h, c, 1u)),
        weight * scale_in(scales.z, group_for(h, c, 2u)),
        weight * scale_in(scales.w, group_for(h, c, 3u)),
    );
}

// What a lane has found so far, with heads in its order; weights are of its own, relative to exp2(greatest). `taken` is
// the sum of what others multiply values by.
struct Sums {
    a: mat2x4<f32>,
    b: mat2x4<f32>,
    c: mat2x4<f32>,
    d: mat2x4<f32>,
    greatest: vec2<f32>,
    total: vec2<f32>,
    taken: Weights,
}

fn exceeds(score: vec2<f32>, greatest: vec2<f32>) -> bool {
    return score.x > greatest.x + SLACK || (TEAM == 2u && score.y > greatest.y + SLACK);
}

fn with_four(before: Sums, w: Weights, v: Four, c: u32) -> Sums {
    var x = before;
    x.taken = Weights(x.taken.a + w.a, x.taken.b + w.b, x.taken.c + w.c, x.taken.d + w.d);
    x = with_value(x, all_heads(w.a, 0u), raised8(v.a, c));
    x = with_value(x, all_heads(w.b, TEAM), raised8(v.b, c));
    x = with_value(x, all_heads(w.c, 2u * TEAM), raised8(v.c, c));
    return with_value(x, all_heads(w.d, 3u * TEAM), raised8(v.d, c));
}

// With a tile's values, from position j on.
fn with_values(before: Sums, own: Score, v: Values, j: u32, r: Range, h: u32, lane: u32) -> Sums {
    let c = lane % LANES;
    let at = vec2<u32>(j + c / TEAM) + vec2<u32>(0u, 4u);
    let seen = at >= vec2<u32>(r.seen) & at < vec2<u32>(r.stored);
    let near = select(vec2<f32>(UNSEEN), own.near, seen.x);
    let far = select(vec2<f32>(UNSEEN), own.far, seen.y);
    let score = max(near, far);
    var x = before;
    if subgroupAny(exceeds(score, x.greatest)) {
        var higher = max(x.greatest, score);
        higher = max(higher, subgroupShuffleXor(higher, TEAM));
        higher = max(higher, subgroupShuffleXor(higher, 2u * TEAM));
        let decay = exp2(x.greatest - higher);
        x.greatest = higher;
        x.total *= decay;
        x.taken = Weights(decay * x.taken.a, decay * x.taken.b, decay * x.taken.c, decay * x.taken.d);
        x = rescaled(x, all_heads(decay, 0u));
    }
    let near_weight = select(vec2<f32>(0.0), exp2(near - x.greatest), seen.x);
    let far_weight = select(vec2<f32>(0.0), exp2(far - x.greatest), seen.y);
    x.total += near_weight + far_weight;
    x = with_four(x, weights_of(near_weight, seen.x, v.near.scales, h, c), v.near, c);
    return with_four(x, weights_of(far_weight, seen.y, v.far.scales, h, c), v.far, c);
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

// Values less their excess: what each lane took is what those that gave it know.
fn without_excess(before: Sums) -> Sums {
    let own = before.taken;
    let taken = all_heads(own.a, 0u)
        + all_heads(own.b, TEAM)
        + all_heads(own.c, 2u * TEAM)
        + all_heads(own.d, 3u * TEAM);
    return with_value(before, -taken, excess8());
}

// Of all lanes, with heads in their order again.
fn found_by(sums: Sums, lane: u32, c: u32) -> Found {
    let x = without_excess(sums);
    var total = x.total + subgroupShuffleXor(x.total, TEAM);
    total += subgroupShuffleXor(total, 2u * TEAM);
    let ln_2 = 0.6931471805599453;
    return in_order(c % TEAM, Found(x.a, x.b, x.c, x.d, ln_2 * all_heads(x.greatest, 0u), all_heads(total, 0u)));
}
