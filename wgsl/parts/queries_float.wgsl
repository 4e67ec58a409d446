// Scores of packed keys with up to four query heads, in f32. Needs scale_of (packed8), centred4 (codes8), made_ready, dots
// (meet), KEY_BITS.

struct Queries { a: mat2x4<f32>, b: mat2x4<f32>, c: mat2x4<f32>, d: mat2x4<f32> }

fn keep_query(lane: u32, c: u32, row: u32, q: mat2x4<f32>) {}

// Lane c's part of the queries that stand ready.
fn queries_of(c: u32) -> Queries {
    return Queries(
        made_ready(0u, c),
        made_ready(min(1u, HEADS - 1u), c),
        made_ready(min(2u, HEADS - 1u), c),
        made_ready(HEADS - 1u, c),
    );
}

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

fn unit_of(q: Queries) -> vec4<f32> {
    return vec4<f32>(1.0);
}
