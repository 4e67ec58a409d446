// 32 codes of 5 bits, five loads of 4 bytes, as bytes: of each unit of 8 the first four and the last.
// Needs bytes4; OfGroup, of_group, by_bytes (product).

const FIELD: u32 = 5u;

struct Packed { a: u32, b: u32, c: u32, d: u32, e: u32, of_group: OfGroup }

fn packed(row: u32, c: u32) -> Packed {
    let at = row * (params.units / 4u * 5u) + 5u * c;
    return Packed(weight[at], weight[at + 1u], weight[at + 2u], weight[at + 3u], weight[at + 4u], of_group(row, c));
}

fn thirty_two(w: Packed, p0: vec4<u32>, p1: vec4<u32>, p2: vec4<u32>, p3: vec4<u32>) -> i32 {
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
    return by_bytes(a, b, p0, p1, p2, p3);
}
