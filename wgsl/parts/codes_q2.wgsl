// 32 codes of 2 bits, one load of 8 bytes, as bytes of two: of each unit of 8 the even ones, and the odd ones times 4.
// Needs bytes4; OfGroup, of_group, by_pairs (product).

const FIELD: u32 = 4u;

struct Packed { words: vec2<u32>, of_group: OfGroup }

fn packed(row: u32, c: u32) -> Packed {
    let at = row * (params.units / 4u) + c;
    return Packed(weight[at], of_group(row, c));
}

fn thirty_two(w: Packed, p0: vec4<u32>, p1: vec4<u32>, p2: vec4<u32>, p3: vec4<u32>) -> i32 {
    let x = vec4<u32>(bytes4(w.words.x), bytes4(w.words.x >> 16u), bytes4(w.words.y), bytes4(w.words.y >> 16u));
    let even = x & vec4<u32>(0x03030303u);
    let odd = x & vec4<u32>(0x0c0c0c0cu);
    return by_pairs(even, odd, 4, p0, p1, p2, p3);
}
