// 32 codes of 8 bits, two loads of 16 bytes, as bytes less 128: of each unit of 8, the first four and the last.

// Scale and bias are still in their words: nothing waits for them before they are used.
struct Packed { left: vec4<u32>, right: vec4<u32>, scale: u32, offset: u32, group: u32 }

fn packed(row: u32, c: u32) -> Packed {
    let at = (row * (params.units / 4u) + c) * 2u;
    let group = group_of(row, 4u * c);
    let of_group = place(SCALES, group);
    return Packed(weight[at], weight[at + 1u], scales[of_group], biases[of_group], group);
}

// Sums of 32 codes with whole numbers.
fn thirty_two(w: Packed, p0: vec4<u32>, p1: vec4<u32>, p2: vec4<u32>, p3: vec4<u32>) -> i32 {
    let l = w.left ^ vec4<u32>(0x80808080u);
    let r = w.right ^ vec4<u32>(0x80808080u);
    let high = dot4I8Packed(l.x, p0.x) + dot4I8Packed(l.y, p0.y) + dot4I8Packed(l.z, p1.x)
        + dot4I8Packed(l.w, p1.y) + dot4I8Packed(r.x, p2.x) + dot4I8Packed(r.y, p2.y)
        + dot4I8Packed(r.z, p3.x) + dot4I8Packed(r.w, p3.y);
    let low = dot4I8Packed(l.x, p0.z) + dot4I8Packed(l.y, p0.w) + dot4I8Packed(l.z, p1.z)
        + dot4I8Packed(l.w, p1.w) + dot4I8Packed(r.x, p2.z) + dot4I8Packed(r.y, p2.w)
        + dot4I8Packed(r.z, p3.z) + dot4I8Packed(r.w, p3.w);
    return high * 256 + low;
}
