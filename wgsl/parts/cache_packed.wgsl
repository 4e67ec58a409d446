// Keys and values as kv_pack writes them: 4 codes of head h of row j from 4 c on, less their zero, and the scale
// that they share with their group of SPAN vectors. Affine ones (mlx-lm's) come whole, with a scale of 1.
// Needs word_at (tiled_words).

override KEY_BITS: u32 = 4u;
override VALUE_BITS: u32 = 4u;
override KEY_AFFINE: u32 = 0u;
override VALUE_AFFINE: u32 = 0u;
// Words of codes that a row has side by side.
override KEY_EACH: u32 = 1u;
override VALUE_EACH: u32 = 1u;
override GROUP: u32 = 64u;
override SPAN: u32 = GROUP / 4u;

// 4 fields of a word, one in each byte: vector j of a plane of this width.
fn fields(word: u32, width: u32, j: u32) -> u32 {
    return (word >> (width * (j % (8u / width)))) & (0x01010101u * ((1u << width) - 1u));
}

// What the bits of narrower planes add to those of wider ones; codes of 4 values, one in each byte.
fn narrow(bits: u32, width: u32) -> u32 {
    return bits & ~(2u * width - 1u);
}

fn centred(codes: u32, bits: u32) -> vec4<f32> {
    let zero = select(f32(1u << (bits - 1u)) - 0.5, 128.0, bits == 8u);
    return vec4<f32>(unpack4xU8(codes)) - zero;
}

fn half_of(word: u32, g: u32) -> f32 {
    let pair = unpack2x16float(word);
    return select(pair.x, pair.y, (g & 1u) == 1u);
}

fn groups() -> u32 {
    return (params.d + GROUP - 1u) / GROUP;
}

fn blocks() -> u32 {
    return (params.d + 31u) / 32u;
}

fn key_word(j: u32, w: u32) -> u32 {
    return keys[word_at(j, params.key_words, w, KEY_EACH)];
}

fn value_word(j: u32, w: u32) -> u32 {
    return values[word_at(j, params.value_words, w, VALUE_EACH)];
}

// Words of scales, w words after the codes.
fn key_scales(j: u32, w: u32) -> u32 {
    return keys[word_at(j, params.key_words, params.kv_heads * blocks() * KEY_BITS + w, 1u)];
}

fn value_scales(j: u32, w: u32) -> u32 {
    return values[word_at(j, params.value_words, params.kv_heads * blocks() * VALUE_BITS + w, 1u)];
}

fn key_codes(h: u32, j: u32, c: u32) -> u32 {
    var at = (h * blocks() + c / 8u) * KEY_BITS;
    let i = c % 8u;
    var codes = 0u;
    if (KEY_BITS & 8u) > 0u { codes = key_word(j, at + i); }
    at += KEY_BITS & 8u;
    if (KEY_BITS & 4u) > 0u { codes |= fields(key_word(j, at + i / 2u), 4u, i) << narrow(KEY_BITS, 4u); }
    at += KEY_BITS & 4u;
    if (KEY_BITS & 2u) > 0u { codes |= fields(key_word(j, at + i / 4u), 2u, i) << narrow(KEY_BITS, 2u); }
    at += KEY_BITS & 2u;
    if (KEY_BITS & 1u) > 0u { codes |= fields(key_word(j, at), 1u, i) << narrow(KEY_BITS, 1u); }
    return codes;
}

fn value_codes(h: u32, j: u32, c: u32) -> u32 {
    var at = (h * blocks() + c / 8u) * VALUE_BITS;
    let i = c % 8u;
    var codes = 0u;
    if (VALUE_BITS & 8u) > 0u { codes = value_word(j, at + i); }
    at += VALUE_BITS & 8u;
    if (VALUE_BITS & 4u) > 0u { codes |= fields(value_word(j, at + i / 2u), 4u, i) << narrow(VALUE_BITS, 4u); }
    at += VALUE_BITS & 4u;
    if (VALUE_BITS & 2u) > 0u { codes |= fields(value_word(j, at + i / 4u), 2u, i) << narrow(VALUE_BITS, 2u); }
    at += VALUE_BITS & 2u;
    if (VALUE_BITS & 1u) > 0u { codes |= fields(value_word(j, at), 1u, i) << narrow(VALUE_BITS, 1u); }
    return codes;
}

fn key4(h: u32, j: u32, c: u32) -> vec4<f32> {
    let codes = key_codes(h, j, c);
    if KEY_AFFINE == 1u {
        let at = 2u * (h * groups() + c / SPAN);
        return bitcast<f32>(key_scales(j, at)) * vec4<f32>(unpack4xU8(codes)) + bitcast<f32>(key_scales(j, at + 1u));
    }
    return centred(codes, KEY_BITS);
}

fn value4(h: u32, j: u32, c: u32) -> vec4<f32> {
    let codes = value_codes(h, j, c);
    if VALUE_AFFINE == 1u {
        let at = 2u * (h * groups() + c / SPAN);
        return bitcast<f32>(value_scales(j, at)) * vec4<f32>(unpack4xU8(codes)) + bitcast<f32>(value_scales(j, at + 1u));
    }
    return centred(codes, VALUE_BITS);
}

fn key_scale(h: u32, j: u32, c: u32) -> f32 {
    if KEY_AFFINE == 1u {
        return 1.0;
    }
    let g = h * groups() + c / SPAN;
    return half_of(key_scales(j, g / 2u), g);
}

fn value_scale(h: u32, j: u32, c: u32) -> f32 {
    if VALUE_AFFINE == 1u {
        return 1.0;
    }
    let g = h * groups() + c / SPAN;
    return half_of(value_scales(j, g / 2u), g);
}
