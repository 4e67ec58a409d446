// Scores of packed keys with up to four query heads, in f32. Needs `meeting` (meet), centred4 (codes8), KEY_BITS.

alias Sums = vec4<f32>;

fn note_query(lane: u32, c: u32, row: u32, q: mat2x4<f32>) {}

fn keep_queries(lane: u32) {}

fn no_sums() -> Sums {
    return vec4<f32>();
}

fn add_codes(sums: Sums, codes: u32, j: u32) -> Sums {
    let key = centred4(codes, KEY_BITS);
    var result = sums;
    result.x += dot(key, meeting[j]);
    if HEADS > 1u { result.y += dot(key, meeting[2u * LANES + j]); }
    if HEADS > 2u { result.z += dot(key, meeting[4u * LANES + j]); }
    if HEADS > 3u { result.w += dot(key, meeting[6u * LANES + j]); }
    return result;
}

// A word of codes, the first of which is of the head's vector j.
fn add_word(sums: Sums, word: u32, j: u32) -> Sums {
    if KEY_BITS == 8u {
        return add_codes(sums, word, j);
    }
    return add_codes(add_codes(sums, word & 0x0f0f0f0fu, j), (word >> 4u) & 0x0f0f0f0fu, j + 1u);
}

// A group's scores before its scale.
fn group_scores(sums: Sums, g: u32) -> vec4<f32> {
    return sums;
}
