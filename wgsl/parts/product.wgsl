// 32 codes times as many values of x as planes of bytes (planes).
// Parts: Packed (codes_*), thirty_two (product_bytes, product_pairs), SCALES (scales), widen (floats).

fn product(w: Packed, p0: vec4<u32>, p1: vec4<u32>, p2: vec4<u32>, p3: vec4<u32>, s: vec4<f32>) -> f32 {
    let scale = widen(SCALES, w.of_group.scale, w.of_group.group);
    let offset = widen(SCALES, w.of_group.offset, w.of_group.group);
    return scale * (f32(thirty_two(w, p0, p1, p2, p3)) * s.x + s.y) + offset * s.z;
}
