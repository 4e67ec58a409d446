// 32 codes of 4 bits, one load of 16 bytes, as signed bytes where they stand: of each unit of 8 the even ones, and
// the odd ones less 8 and times 16.
// Needs OfGroup, of_group, by_pairs (product).

struct Packed { words: vec4<u32>, of_group: OfGroup }

fn packed(row: u32, c: u32) -> Packed {
    return Packed(weight[row * (params.units / 4u) + c], of_group(row, c));
}

fn thirty_two(w: Packed, p0: vec4<u32>, p1: vec4<u32>, p2: vec4<u32>, p3: vec4<u32>) -> i32 {
    let even = w.words & vec4<u32>(0x0f0f0f0fu);
    let odd = (w.words & vec4<u32>(0xf0f0f0f0u)) ^ vec4<u32>(0x80808080u);
    return by_pairs(even, odd, 16, p0, p1, p2, p3);
}
