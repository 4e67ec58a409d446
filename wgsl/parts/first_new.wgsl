// The first key of a token's sequence that this step of TOKENS tokens writes: from there on the cache is of old.
fn first_new(here: vec2<u32>) -> u32 {
    var first = here.x;
    for (var i = 0u; TOKENS > 1u && i < TOKENS; i++) {
        if places[i].y == here.y {
            first = min(first, places[i].x);
        }
    }
    return first;
}
