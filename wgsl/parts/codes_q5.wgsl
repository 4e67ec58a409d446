// 32 codes of 5 bits, five loads of 4 bytes, as bytes: of each unit of 8 the first four and the last.
// Needs bytes4 (bytes4).

const FIELD: u32 = 5u;

// Scale and bias are still in their words: nothing waits for them before they are used.
struct Packed { a: u32, b: u32, c: u32, d: u32, e: u32, scale: u32, offset: u32, group: u32 }

fn packed(row: u32, c: u32) -> Packed {
    let at = row * (params.units / 4u * 5u) + 5u * c;
    let group = group_of(row, 4u * c);
    let of_group = place(SCALES, group);
    return Packed(weight[at], weight[at + 1u], weight[at + 2u], weight[at + 3u], weight[at + 4u], scales[of_group], biases[of_group], group);
}

// Sums of 32 codes with whole numbers.
fn thirty_two(w: Packed, p0: vec4<u32>, p1: vec4<u32>, p2: vec4<u32>, p3: vec4<u32>) -> i32 {
    let x0 = bytes4(w.a);
    let x1 = bytes4((w.a >> 20u) | (w.b << 12u));
    let x2 = bytes4(w.b >> 8u);
    let x3 = bytes4((w.b >> 28u) | (w.c << 4u));
    let x4 = bytes4((w.c >> 16u) | (w.d << 16u));
    let x5 = bytes4(w.d >> 4u);
    let x6 = bytes4((w.d >> 24u) | (w.e << 8u));
    let x7 = bytes4(w.e >> 12u);
    let high = dot4I8Packed(x0, p0.x) + dot4I8Packed(x1, p0.y) + dot4I8Packed(x2, p1.x) + dot4I8Packed(x3, p1.y)
        + dot4I8Packed(x4, p2.x) + dot4I8Packed(x5, p2.y) + dot4I8Packed(x6, p3.x) + dot4I8Packed(x7, p3.y);
    let low = dot4I8Packed(x0, p0.z) + dot4I8Packed(x1, p0.w) + dot4I8Packed(x2, p1.z) + dot4I8Packed(x3, p1.w)
        + dot4I8Packed(x4, p2.z) + dot4I8Packed(x5, p2.w) + dot4I8Packed(x6, p3.z) + dot4I8Packed(x7, p3.w);
    return high * 256 + low;
}
