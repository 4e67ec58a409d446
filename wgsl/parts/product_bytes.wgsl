// Sums of 32 codes, one in a byte, times planes of x (planes), with whole numbers.
// Parts: Packed, bytes_of (codes_*).

fn thirty_two(w: Packed, p0: vec4<u32>, p1: vec4<u32>, p2: vec4<u32>, p3: vec4<u32>) -> i32 {
    let bytes = bytes_of(w);
    let a = bytes.first;
    let b = bytes.last;
    let high = dot4I8Packed(a.x, p0.x) + dot4I8Packed(b.x, p0.y) + dot4I8Packed(a.y, p1.x) + dot4I8Packed(b.y, p1.y)
        + dot4I8Packed(a.z, p2.x) + dot4I8Packed(b.z, p2.y) + dot4I8Packed(a.w, p3.x) + dot4I8Packed(b.w, p3.y);
    let low = dot4I8Packed(a.x, p0.z) + dot4I8Packed(b.x, p0.w) + dot4I8Packed(a.y, p1.z) + dot4I8Packed(b.y, p1.w)
        + dot4I8Packed(a.z, p2.z) + dot4I8Packed(b.z, p2.w) + dot4I8Packed(a.w, p3.z) + dot4I8Packed(b.w, p3.w);
    return high * 256 + low;
}
