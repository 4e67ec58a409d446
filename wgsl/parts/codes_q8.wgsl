// 32 codes of 8 bits, two loads of 16 bytes, as bytes less 128: of each unit of 8, the first four and the last.
// Needs OfGroup, of_group, by_bytes (product).

struct Packed { left: vec4<u32>, right: vec4<u32>, of_group: OfGroup }

fn packed(row: u32, c: u32) -> Packed {
    let at = (row * (params.units / 4u) + c) * 2u;
    return Packed(weight[at], weight[at + 1u], of_group(row, c));
}

fn thirty_two(w: Packed, p0: vec4<u32>, p1: vec4<u32>, p2: vec4<u32>, p3: vec4<u32>) -> i32 {
    let l = w.left ^ vec4<u32>(0x80808080u);
    let r = w.right ^ vec4<u32>(0x80808080u);
    return by_bytes(vec4<u32>(l.xz, r.xz), vec4<u32>(l.yw, r.yw), p0, p1, p2, p3);
}
