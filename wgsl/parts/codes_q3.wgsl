// 32 codes of 3 bits, three loads of 4 bytes, two in a byte: of each unit of 8 the even ones, and the odd ones times 8.
// Needs bytes4; OfGroup, of_group (scales).

const FIELD: u32 = 6u;

struct Packed { a: u32, b: u32, c: u32, of_group: OfGroup }

fn packed(row: u32, c: u32) -> Packed {
    let at = row * (params.units / 4u * 3u) + 3u * c;
    return Packed(weight[at], weight[at + 1u], weight[at + 2u], of_group(row, c));
}

fn pairs_of(w: Packed) -> vec4<u32> {
    return vec4<u32>(
        bytes4(w.a),
        bytes4((w.a >> 24u) | (w.b << 8u)),
        bytes4((w.b >> 16u) | (w.c << 16u)),
        bytes4(w.c >> 8u),
    );
}
