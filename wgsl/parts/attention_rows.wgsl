// The rows of a block of queries: those of the heads that share a key head, token by token.

// A row, or the last one where there is none.
fn row_of(row: u32) -> u32 {
    return min(row, params.tokens * (params.heads / params.kv_heads) - 1u);
}

fn token_of(row: u32) -> u32 {
    return row / (params.heads / params.kv_heads);
}

// Where the query of a row of key head h lies, and its result.
fn place_of(h: u32, row: u32) -> u32 {
    let group = params.heads / params.kv_heads;
    return ((row / group) * params.heads + h * group + row % group) * params.d;
}

// The first and the last logical row that a token sees.
fn range_of(token: u32) -> vec2<u32> {
    let place = places[token];
    let hidden = select(0u, place.x + 1u - params.window, params.window > 0u && place.x + 1u > params.window);
    return vec2<u32>(place.y + hidden, min(place.x + place.y, params.rows - 1u));
}

// The first key from `at` on, of those before `end`, that one of the tokens first .. last sees; in a block that is
// not sparse, it is the next.
fn following(at: u32, tokens: vec2<u32>, end: u32, sparse: bool) -> u32 {
    if !sparse {
        return at;
    }
    var next = end;
    for (var token = tokens.x; token <= tokens.y; token++) {
        let seen = range_of(token);
        if seen.y >= at {
            next = min(next, max(seen.x, at));
        }
    }
    return next;
}
