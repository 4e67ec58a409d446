// 32 codes of 8 bits, two loads of 16 bytes, as bytes less 128: of each unit of 8, the first four and the last.
// Needs OfGroup, of_group (scales).

// Of each unit of 8 the first four codes, and the last.
struct Bytes { first: vec4<u32>, last: vec4<u32> }

struct Packed { left: vec4<u32>, right: vec4<u32>, of_group: OfGroup }

fn packed(row: u32, c: u32) -> Packed {
    let at = (row * (params.units / 4u) + c) * 2u;
    return Packed(weight[at], weight[at + 1u], of_group(row, c));
}

fn bytes_of(w: Packed) -> Bytes {
    let l = w.left ^ vec4<u32>(0x80808080u);
    let r = w.right ^ vec4<u32>(0x80808080u);
    return Bytes(vec4<u32>(l.xz, r.xz), vec4<u32>(l.yw, r.yw));
}
