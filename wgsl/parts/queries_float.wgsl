// Scores of packed keys with up to four query heads, in f32. Needs Queries (queries8), scale_of (packed8), centred4
// (codes8), dots (meet), KEY_BITS.

fn keep_query(lane: u32, c: u32, row: u32, q: mat2x4<f32>) {}

// This lane's share.
fn scores(q: Queries, key: Eight, h: u32, c: u32) -> vec4<f32> {
    var first = key.words.x;
    var last = key.words.y;
    if KEY_BITS == 4u {
        last = (first >> 4u) & 0x0f0f0f0fu;
        first &= 0x0f0f0f0fu;
    }
    let numbers = mat2x4<f32>(centred4(first, KEY_BITS), centred4(last, KEY_BITS));
    return scale_of(key, h, c) * dots(q.a, q.b, q.c, q.d, numbers);
}
