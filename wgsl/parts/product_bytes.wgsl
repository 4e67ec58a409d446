// Sums of 32 codes, one in a byte, times planes of x (planes), with whole numbers.
// Parts: Packed, bytes_of (codes_*), dot_planes (dot_planes).

fn thirty_two(w: Packed, p0: vec4<u32>, p1: vec4<u32>, p2: vec4<u32>, p3: vec4<u32>) -> i32 {
    let bytes = bytes_of(w);
    return dot_planes(bytes.first, bytes.last, p0, p1, p2, p3);
}
