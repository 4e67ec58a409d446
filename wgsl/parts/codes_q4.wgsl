// 32 codes of 4 bits, one load of 16 bytes, two in a byte: of each unit of 8 the even ones, and the odd ones times 16.
// Needs OfGroup, of_group (scales).

const FIELD: u32 = 8u;

struct Packed { words: vec4<u32>, of_group: OfGroup }

fn packed(row: u32, c: u32) -> Packed {
    return Packed(weight[row * (params.units / 4u) + c], of_group(row, c));
}

fn pairs_of(w: Packed) -> vec4<u32> {
    return w.words;
}
