// 32 codes of 4 bits, one load of 16 bytes, as signed bytes where they stand: of each unit of 8 the even ones, and
// the odd ones less 8 and times 16.

// Scale and bias are still in their words: nothing waits for them before they are used.
struct Packed { words: vec4<u32>, scale: u32, offset: u32, group: u32 }

fn packed(row: u32, c: u32) -> Packed {
    let group = group_of(row, 4u * c);
    let at = place(SCALES, group);
    return Packed(weight[row * (params.units / 4u) + c], scales[at], biases[at], group);
}

// Sums of 32 codes with whole numbers: what is a sixteenth too small is multiplied as whole numbers are.
fn thirty_two(w: Packed, p0: vec4<u32>, p1: vec4<u32>, p2: vec4<u32>, p3: vec4<u32>) -> i32 {
    let even = w.words & vec4<u32>(0x0f0f0f0fu);
    let odd = (w.words & vec4<u32>(0xf0f0f0f0u)) ^ vec4<u32>(0x80808080u);
    let even_high = dot4I8Packed(even.x, p0.x) + dot4I8Packed(even.y, p1.x)
        + dot4I8Packed(even.z, p2.x) + dot4I8Packed(even.w, p3.x);
    let even_low = dot4I8Packed(even.x, p0.z) + dot4I8Packed(even.y, p1.z)
        + dot4I8Packed(even.z, p2.z) + dot4I8Packed(even.w, p3.z);
    let odd_high = dot4I8Packed(odd.x, p0.y) + dot4I8Packed(odd.y, p1.y)
        + dot4I8Packed(odd.z, p2.y) + dot4I8Packed(odd.w, p3.y);
    let odd_low = dot4I8Packed(odd.x, p0.w) + dot4I8Packed(odd.y, p1.w)
        + dot4I8Packed(odd.z, p2.w) + dot4I8Packed(odd.w, p3.w);
    return (even_high * 256 + even_low) * 16 + odd_high * 256 + odd_low;
}
