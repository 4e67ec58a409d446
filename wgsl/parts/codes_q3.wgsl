// 32 codes of 3 bits, three loads of 4 bytes, as bytes where they stand in pairs: of each unit of 8 the even ones, and the odd ones
// times 8.
// Needs bytes4 (bytes4).

const FIELD: u32 = 6u;

// Scale and bias are still in their words: nothing waits for them before they are used.
struct Packed { a: u32, b: u32, c: u32, scale: u32, offset: u32, group: u32 }

fn packed(row: u32, c: u32) -> Packed {
    let at = row * (params.units / 4u * 3u) + 3u * c;
    let group = group_of(row, 4u * c);
    let of_group = place(SCALES, group);
    return Packed(weight[at], weight[at + 1u], weight[at + 2u], scales[of_group], biases[of_group], group);
}

// Sums of 32 codes with whole numbers: what is too small is multiplied as whole numbers are.
fn thirty_two(w: Packed, p0: vec4<u32>, p1: vec4<u32>, p2: vec4<u32>, p3: vec4<u32>) -> i32 {
    let x0 = bytes4(w.a);
    let x1 = bytes4((w.a >> 24u) | (w.b << 8u));
    let x2 = bytes4((w.b >> 16u) | (w.c << 16u));
    let x3 = bytes4(w.c >> 8u);
    let even = 0x07070707u;
    let odd = 0x38383838u;
    let even_high = dot4I8Packed(x0 & even, p0.x) + dot4I8Packed(x1 & even, p1.x)
        + dot4I8Packed(x2 & even, p2.x) + dot4I8Packed(x3 & even, p3.x);
    let even_low = dot4I8Packed(x0 & even, p0.z) + dot4I8Packed(x1 & even, p1.z)
        + dot4I8Packed(x2 & even, p2.z) + dot4I8Packed(x3 & even, p3.z);
    let odd_high = dot4I8Packed(x0 & odd, p0.y) + dot4I8Packed(x1 & odd, p1.y)
        + dot4I8Packed(x2 & odd, p2.y) + dot4I8Packed(x3 & odd, p3.y);
    let odd_low = dot4I8Packed(x0 & odd, p0.w) + dot4I8Packed(x1 & odd, p1.w)
        + dot4I8Packed(x2 & odd, p2.w) + dot4I8Packed(x3 & odd, p3.w);
    return (even_high * 256 + even_low) * 8 + odd_high * 256 + odd_low;
}
