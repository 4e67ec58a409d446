// 32 codes times as many values of x as planes of bytes (planes).
// Parts: Packed, bytes_of (codes_*, apart), dot_planes (dot_planes), SCALES (scales), widen (floats).

fn product(w: Packed, p0: vec4<u32>, p1: vec4<u32>, p2: vec4<u32>, p3: vec4<u32>, s: vec4<f32>) -> f32 {
    let scale = widen(SCALES, w.of_group.scale, w.of_group.group);
    let offset = widen(SCALES, w.of_group.offset, w.of_group.group);
    let bytes = bytes_of(w);
    let sum = dot_planes(bytes.first, bytes.last, p0, p1, p2, p3);
    return scale * (f32(sum) * s.x + s.y) + offset * s.z;
}
