// 32 codes of 6 bits, three loads of 8 bytes, as bytes: of each unit of 8 the first four and the last.
// Needs bytes4 (bytes4).

const FIELD: u32 = 6u;

// Scale and bias are still in their words: nothing waits for them before they are used.
struct Packed { a: vec2<u32>, b: vec2<u32>, c: vec2<u32>, scale: u32, offset: u32, group: u32 }

fn packed(row: u32, c: u32) -> Packed {
    let at = row * (params.units / 4u * 3u) + 3u * c;
    let group = group_of(row, 4u * c);
    let of_group = place(SCALES, group);
    return Packed(weight[at], weight[at + 1u], weight[at + 2u], scales[of_group], biases[of_group], group);
}

// Sums of 32 codes with whole numbers.
fn thirty_two(w: Packed, p0: vec4<u32>, p1: vec4<u32>, p2: vec4<u32>, p3: vec4<u32>) -> i32 {
    let x0 = bytes4(w.a.x);
    let x1 = bytes4((w.a.x >> 24u) | (w.a.y << 8u));
    let x2 = bytes4((w.a.y >> 16u) | (w.b.x << 16u));
    let x3 = bytes4(w.b.x >> 8u);
    let x4 = bytes4(w.b.y);
    let x5 = bytes4((w.b.y >> 24u) | (w.c.x << 8u));
    let x6 = bytes4((w.c.x >> 16u) | (w.c.y << 16u));
    let x7 = bytes4(w.c.y >> 8u);
    let high = dot4I8Packed(x0, p0.x) + dot4I8Packed(x1, p0.y) + dot4I8Packed(x2, p1.x) + dot4I8Packed(x3, p1.y)
        + dot4I8Packed(x4, p2.x) + dot4I8Packed(x5, p2.y) + dot4I8Packed(x6, p3.x) + dot4I8Packed(x7, p3.y);
    let low = dot4I8Packed(x0, p0.z) + dot4I8Packed(x1, p0.w) + dot4I8Packed(x2, p1.z) + dot4I8Packed(x3, p1.w)
        + dot4I8Packed(x4, p2.z) + dot4I8Packed(x5, p2.w) + dot4I8Packed(x6, p3.z) + dot4I8Packed(x7, p3.w);
    return high * 256 + low;
}
