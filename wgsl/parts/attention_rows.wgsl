// The rows of a block of attention_coop: which queries they are, what they see, how they become f16.

// The lane's row among all rows of the key head; past the last of them, the last again.
fn row() -> u32 {
    let group = params.heads / params.kv_heads;
    return min(first_row + subgroup * ROWS + lane / SHARE, params.tokens * group - 1u);
}

fn token_of(row: u32) -> u32 {
    return row / (params.heads / params.kv_heads);
}

// The first and the last row of the cache that a token sees.
fn range_of(token: u32) -> vec2<u32> {
    let place = places[token];
    let hidden = select(0u, place.x + 1u - params.window, params.window > 0u && place.x + 1u > params.window);
    return vec2<u32>(place.y + hidden, min(place.x + place.y, params.rows - 1u));
}

// Where the row lies in q and y, in vectors of 4 values.
fn place_of(row: u32) -> u32 {
    let group = params.heads / params.kv_heads;
    return ((row / group) * params.heads + key_head * group + row % group) * (D / 4u);
}

// The first key from `at` on that a row sees.
fn following(at: u32) -> u32 {
    if !sparse {
        return at;
    }
    let last = min(token_of(first_row + SUBGROUPS * ROWS - 1u), params.tokens - 1u);
    var next = end;
    for (var token = token_of(first_row); token <= last; token++) {
        let seen = range_of(token);
        if seen.y >= at {
            next = min(next, max(seen.x, at));
        }
    }
    return next;
}

// How a query row becomes f16, and its products scores in powers of two.
fn scale_row() {
    let begin = place_of(row());
    var most = vec4<f32>(0.0);
    for (var i = lane % SHARE; i < D / 4u; i += SHARE) {
        most = max(most, abs(q[begin + i]));
    }
    var greatest = max(max(most.x, most.y), max(most.z, most.w));
    for (var distance = 1u; distance < SHARE; distance *= 2u) {
        greatest = max(greatest, subgroupShuffleXor(greatest, distance));
    }
    let exponent = clamp(bitcast<u32>(greatest) >> 23u, 107u, 167u);
    factor = params.scale * LOG2_E * bitcast<f32>((exponent - 13u) << 23u);
    decay = bitcast<f32>((267u - exponent) << 23u);
}

// Columns first .. first + COLUMNS of the subgroup's queries, as f16, where weights lie later.
fn stage_queries(first: u32) {
    let begin = place_of(row());
    subgroupBarrier();
    for (var i = lane % SHARE; i < COLUMNS / 4u; i += SHARE) {
        if first / 4u + i < D / 4u {
            put_weights(own_weights() + 4u * i, vec4<f16>(decay * q[begin + first / 4u + i]));
        }
    }
    subgroupBarrier();
}
