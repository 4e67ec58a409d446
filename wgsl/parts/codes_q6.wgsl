// 32 codes of 6 bits, three loads of 8 bytes, as bytes: of each unit of 8 the first four and the last.
// Needs bytes4; OfGroup, of_group (scales).

const FIELD: u32 = 6u;

// Of each unit of 8 the first four codes, and the last.
struct Bytes { first: vec4<u32>, last: vec4<u32> }

struct Packed { a: vec2<u32>, b: vec2<u32>, c: vec2<u32>, of_group: OfGroup }

fn packed(row: u32, c: u32) -> Packed {
    let at = row * (params.units / 4u * 3u) + 3u * c;
    return Packed(weight[at], weight[at + 1u], weight[at + 2u], of_group(row, c));
}

fn bytes_of(w: Packed) -> Bytes {
    let a = vec4<u32>(
        bytes4(w.a.x),
        bytes4((w.a.y >> 16u) | (w.b.x << 16u)),
        bytes4(w.b.y),
        bytes4((w.c.x >> 16u) | (w.c.y << 16u)),
    );
    let b = vec4<u32>(
        bytes4((w.a.x >> 24u) | (w.a.y << 8u)),
        bytes4(w.b.x >> 8u),
        bytes4((w.b.y >> 24u) | (w.c.x << 8u)),
        bytes4(w.c.y >> 8u),
    );
    return Bytes(a, b);
}
