// 32 codes of 5 bits, five loads of 4 bytes, as bytes: of each unit of 8 the first four and the last.
// Needs bytes4; OfGroup, of_group (scales).

const FIELD: u32 = 5u;

// Of each unit of 8 the first four codes, and the last.
struct Bytes { first: vec4<u32>, last: vec4<u32> }

struct Packed { a: u32, b: u32, c: u32, d: u32, e: u32, of_group: OfGroup }

fn packed(row: u32, c: u32) -> Packed {
    let at = row * (params.units / 4u * 5u) + 5u * c;
    return Packed(weight[at], weight[at + 1u], weight[at + 2u], weight[at + 3u], weight[at + 4u], of_group(row, c));
}

fn bytes_of(w: Packed) -> Bytes {
    let a = vec4<u32>(
        bytes4(w.a),
        bytes4(w.b >> 8u),
        bytes4((w.c >> 16u) | (w.d << 16u)),
        bytes4((w.d >> 24u) | (w.e << 8u)),
    );
    let b = vec4<u32>(
        bytes4((w.a >> 20u) | (w.b << 12u)),
        bytes4((w.b >> 28u) | (w.c << 4u)),
        bytes4(w.d >> 4u),
        bytes4(w.e >> 12u),
    );
    return Bytes(a, b);
}
