// 32 codes of 4 bits, one load of 16 bytes, as signed bytes where they stand: of each unit of 8 the even ones, and
// the odd ones less 8 and times 16.
// Needs OfGroup, of_group (scales).

const FIELD: u32 = 8u;
const TIMES: i32 = 16;

struct Packed { words: vec4<u32>, of_group: OfGroup }

fn packed(row: u32, c: u32) -> Packed {
    return Packed(weight[row * (params.units / 4u) + c], of_group(row, c));
}

fn pairs_of(w: Packed) -> vec4<u32> {
    return w.words;
}

fn even_of(pairs: vec4<u32>) -> vec4<u32> {
    return pairs & vec4<u32>(0x0f0f0f0fu);
}

fn odd_of(pairs: vec4<u32>) -> vec4<u32> {
    return (pairs & vec4<u32>(0xf0f0f0f0u)) ^ vec4<u32>(0x80808080u);
}
