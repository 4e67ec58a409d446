// 32 codes of 2 bits, one load of 8 bytes, two in a byte: of each unit of 8 the even ones, and the odd ones times 4.
// Needs bytes4; OfGroup, of_group (scales).

const FIELD: u32 = 4u;

struct Packed { words: vec2<u32>, of_group: OfGroup }

fn packed(row: u32, c: u32) -> Packed {
    let at = row * (params.units / 4u) + c;
    return Packed(weight[at], of_group(row, c));
}

fn pairs_of(w: Packed) -> vec4<u32> {
    return vec4<u32>(bytes4(w.words.x), bytes4(w.words.x >> 16u), bytes4(w.words.y), bytes4(w.words.y >> 16u));
}
