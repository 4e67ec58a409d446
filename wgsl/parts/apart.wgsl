// Codes that stand two in a byte as bytes.
// Parts: Packed, pairs_of, FIELD (codes_q2, codes_q3, codes_q4).

// Of each unit of 8 the even codes, and the odd ones.
struct Bytes { first: vec4<u32>, last: vec4<u32> }

fn bytes_of(w: Packed) -> Bytes {
    let bits = FIELD / 2u;
    let code = vec4<u32>(((1u << bits) - 1u) * 0x01010101u);
    let pairs = pairs_of(w);
    return Bytes(pairs & code, (pairs >> vec4<u32>(bits)) & code);
}
