// Signed bytes times numbers of 16 bits as planes of bytes, with whole numbers: of four units of 8, the first four bytes and
// the last, and of each unit's plane two words of high bytes and two of low ones.

fn dot_planes(a: vec4<u32>, b: vec4<u32>, p0: vec4<u32>, p1: vec4<u32>, p2: vec4<u32>, p3: vec4<u32>) -> i32 {
    let high = dot4I8Packed(a.x, p0.x) + dot4I8Packed(b.x, p0.y) + dot4I8Packed(a.y, p1.x) + dot4I8Packed(b.y, p1.y)
        + dot4I8Packed(a.z, p2.x) + dot4I8Packed(b.z, p2.y) + dot4I8Packed(a.w, p3.x) + dot4I8Packed(b.w, p3.y);
    let low = dot4I8Packed(a.x, p0.z) + dot4I8Packed(b.x, p0.w) + dot4I8Packed(a.y, p1.z) + dot4I8Packed(b.y, p1.w)
        + dot4I8Packed(a.z, p2.z) + dot4I8Packed(b.z, p2.w) + dot4I8Packed(a.w, p3.z) + dot4I8Packed(b.w, p3.w);
    return 256 * high + low;
}
