// New heads into a packed cache: their codes meet in workgroup memory, words are made of them and written. Needs
// set_key_code, set_key_scales, set_value_code, set_value_scales (generated), to_half (pack), KEY_HEAD and the like (packed8).

override CODES: u32 = 8u * LANES;

// Codes of new heads, four in a word, and their scales: key, value, the neighbour's key, its value.
var<workgroup> fresh_codes: array<u32, CODES>;
var<workgroup> fresh_scales: array<f32, 16>;

// The word that `width` bits of each of the codes from `at` on make, those from bit `shift` on.
fn joined(at: u32, shift: u32, width: u32) -> u32 {
    var result = 0u;
    for (var i = 0u; width * i < 8u; i++) {
        result |= ((fresh_codes[at + i] >> shift) & (0x01010101u * ((1u << width) - 1u))) << (width * i);
    }
    return result;
}

// Word w of a head whose codes, four in a word, are in fresh_codes from `begin` on: 32 values take `bits` words, planes
// of 8, 4, 2 and 1 bits.
fn code_word(begin: u32, bits: u32, w: u32) -> u32 {
    // One plane.
    if (bits & (bits - 1u)) == 0u {
        return joined(begin + w * (8u / bits), 0u, bits);
    }
    var width = 8u;
    var start = 0u;
    let word = w % bits;
    // The plane that the word is of.
    while (bits & width) == 0u || word >= start + width {
        start += bits & width;
        width /= 2u;
    }
    let fours = 8u >> countTrailingZeros(width);
    return joined(begin + (w / bits) * 8u + (word - start) * fours, bits & ~(2u * width - 1u), width);
}

// Scales i and i + 1 of count, from `start` on: a head's own, then its neighbour's.
fn scale_word(start: u32, i: u32, count: u32) -> u32 {
    let low = to_half(fresh_scales[start + select(i, i - GROUPS + 8u, i >= GROUPS)]);
    if i + 1u >= count {
        return low;
    }
    return low | (to_half(fresh_scales[start + select(i + 1u, i + 9u - GROUPS, i + 1u >= GROUPS)]) << 16u);
}

// What an invocation writes of a KV head's new key and value, in this row of the cache.
fn store_fresh(lane: u32, h: u32, row: u32) {
    for (var w = lane; w < KEY_HEAD; w += WG) {
        set_key_code(row, h, w, code_word(0u, KEY_BITS, w));
    }
    for (var w = lane; w < VALUE_HEAD; w += WG) {
        set_value_code(row, h, w, code_word(2u * LANES, VALUE_BITS, w));
    }
    // Words of scales, two each; where a head's are odd in number, the even one of two heads writes both's.
    let count = select(GROUPS, min(2u, params.kv_heads - h) * GROUPS, GROUPS % 2u == 1u);
    if (GROUPS % 2u == 0u || h % 2u == 0u) && 2u * lane < count {
        let at = h * GROUPS / 2u + lane;
        set_key_scales(row, at, scale_word(0u, 2u * lane, count));
        set_value_scales(row, at, scale_word(4u, 2u * lane, count));
    }
}
