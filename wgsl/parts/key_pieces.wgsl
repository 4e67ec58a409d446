// Keys of a packed cache, a head a lane, piece by piece: their words, their scores. Needs key_quad, key_word and
// value_word (generated), add_word, group_scores (key_dots_*).

// Scales of a head.
override GROUPS: u32 = 2u;
// Words of a key head and of a value head.
override KEY_HEAD: u32 = 16u;
override VALUE_HEAD: u32 = 16u;
// Words of a key that are fetched together.
const PIECE: u32 = 16u;
override PIECES: u32 = (KEY_HEAD + PIECE - 1u) / PIECE;

struct Words { a: vec4<u32>, b: vec4<u32>, c: vec4<u32>, d: vec4<u32> }

// Words of scales of a key and of a value: two that cover a head's groups each.
struct Scales { key: vec2<u32>, value: vec2<u32> }

// A piece of a key; what is past the head repeats its end.
fn key_words(row: u32, h: u32, piece: u32) -> Words {
    let first = row * params.key_words + h * KEY_HEAD;
    let at = vec4<u32>(first) + min(vec4<u32>(0u, 4u, 8u, 12u) + PIECE * piece, vec4<u32>(KEY_HEAD - 4u));
    return Words(key_quad(at.x), key_quad(at.y), key_quad(at.z), key_quad(at.w));
}

fn scales_of(row: u32, h: u32) -> Scales {
    let g = h * GROUPS;
    let key = row * params.key_words + params.kv_heads * KEY_HEAD + g / 2u;
    let value = row * params.value_words + params.kv_heads * VALUE_HEAD + g / 2u;
    if GROUPS + (g & 1u) > 2u {
        return Scales(vec2<u32>(key_word(key), key_word(key + 1u)), vec2<u32>(value_word(value), value_word(value + 1u)));
    }
    return Scales(vec2<u32>(key_word(key), 0u), vec2<u32>(value_word(value), 0u));
}

// The scale of group g of head h from its words.
fn scale_of(words: vec2<u32>, h: u32, g: u32) -> f32 {
    let i = ((h * GROUPS) & 1u) + g;
    let pair = unpack2x16float(select(words.x, words.y, i >= 2u));
    return select(pair.x, pair.y, (i & 1u) == 1u);
}

fn quad(sums: Sums, words: vec4<u32>, j: u32) -> Sums {
    let s = add_word(sums, words.x, j);
    let t = add_word(s, words.y, j + 8u / KEY_BITS);
    let u = add_word(t, words.z, j + 16u / KEY_BITS);
    return add_word(u, words.w, j + 24u / KEY_BITS);
}

// The scores of a piece of a key with each query head.
fn piece_scores(key: Words, piece: u32, scales: vec2<u32>, h: u32) -> vec4<f32> {
    // Vectors of 4 values before this piece, and in 4 words.
    let j = piece * (PIECE * 8u / KEY_BITS);
    let four = 32u / KEY_BITS;
    let whole = KEY_HEAD % PIECE == 0u;
    let words = PIECE * piece;
    var sums = quad(no_sums(), key.a, j);
    if whole || words + 4u < KEY_HEAD { sums = quad(sums, key.b, j + four); }
    if KEY_BITS == 4u {
        // 64 values are 8 words.
        let score = scale_of(scales, h, 2u * piece) * group_scores(sums, 2u * piece);
        if !whole && words + 8u >= KEY_HEAD {
            return score;
        }
        sums = quad(no_sums(), key.c, j + 2u * four);
        if whole || words + 12u < KEY_HEAD { sums = quad(sums, key.d, j + 3u * four); }
        return score + scale_of(scales, h, 2u * piece + 1u) * group_scores(sums, 2u * piece + 1u);
    }
    if whole || words + 8u < KEY_HEAD { sums = quad(sums, key.c, j + 2u * four); }
    if whole || words + 12u < KEY_HEAD { sums = quad(sums, key.d, j + 3u * four); }
    return scale_of(scales, h, piece) * group_scores(sums, piece);
}
