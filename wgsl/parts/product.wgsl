// 32 codes times as many values of x as planes of bytes (planes).
// Parts: Packed, thirty_two (codes_*), group_of (scales), widen (floats).

// Scale and bias of a group, still in their words: nothing waits for them before they are used.
struct OfGroup { scale: u32, offset: u32, group: u32 }

// Those of chunk c.
fn of_group(row: u32, c: u32) -> OfGroup {
    let group = group_of(row, 4u * c);
    let at = place(SCALES, group);
    return OfGroup(scales[at], biases[at], group);
}

// Sums of 32 codes, one in a byte, with whole numbers: of each unit of 8 the first four, and the last.
fn by_bytes(a: vec4<u32>, b: vec4<u32>, p0: vec4<u32>, p1: vec4<u32>, p2: vec4<u32>, p3: vec4<u32>) -> i32 {
    let high = dot4I8Packed(a.x, p0.x) + dot4I8Packed(b.x, p0.y) + dot4I8Packed(a.y, p1.x) + dot4I8Packed(b.y, p1.y)
        + dot4I8Packed(a.z, p2.x) + dot4I8Packed(b.z, p2.y) + dot4I8Packed(a.w, p3.x) + dot4I8Packed(b.w, p3.y);
    let low = dot4I8Packed(a.x, p0.z) + dot4I8Packed(b.x, p0.w) + dot4I8Packed(a.y, p1.z) + dot4I8Packed(b.y, p1.w)
        + dot4I8Packed(a.z, p2.z) + dot4I8Packed(b.z, p2.w) + dot4I8Packed(a.w, p3.z) + dot4I8Packed(b.w, p3.w);
    return high * 256 + low;
}

// The same of codes two in a byte, a word for each unit: even ones, and odd ones `times` as large where they stand. What is
// too small is multiplied as whole numbers are.
fn by_pairs(
    even: vec4<u32>, odd: vec4<u32>, times: i32, p0: vec4<u32>, p1: vec4<u32>, p2: vec4<u32>, p3: vec4<u32>,
) -> i32 {
    let even_high = dot4I8Packed(even.x, p0.x) + dot4I8Packed(even.y, p1.x)
        + dot4I8Packed(even.z, p2.x) + dot4I8Packed(even.w, p3.x);
    let even_low = dot4I8Packed(even.x, p0.z) + dot4I8Packed(even.y, p1.z)
        + dot4I8Packed(even.z, p2.z) + dot4I8Packed(even.w, p3.z);
    let odd_high = dot4I8Packed(odd.x, p0.y) + dot4I8Packed(odd.y, p1.y)
        + dot4I8Packed(odd.z, p2.y) + dot4I8Packed(odd.w, p3.y);
    let odd_low = dot4I8Packed(odd.x, p0.w) + dot4I8Packed(odd.y, p1.w)
        + dot4I8Packed(odd.z, p2.w) + dot4I8Packed(odd.w, p3.w);
    return (even_high * 256 + even_low) * times + odd_high * 256 + odd_low;
}

fn product(w: Packed, p0: vec4<u32>, p1: vec4<u32>, p2: vec4<u32>, p3: vec4<u32>, s: vec4<f32>) -> f32 {
    let scale = widen(SCALES, w.of_group.scale, w.of_group.group);
    let offset = widen(SCALES, w.of_group.offset, w.of_group.group);
    return scale * (f32(thirty_two(w, p0, p1, p2, p3)) * s.x + s.y) + offset * s.z;
}
