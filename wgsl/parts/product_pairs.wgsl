// Sums of 32 codes, two in a byte, a word for each unit of 8, times planes of x (planes): even ones, and odd ones TIMES as
// large where they stand. What is too small is multiplied as whole numbers are.
// Parts: Packed, pairs_of, even_of, odd_of, TIMES (codes_*).

fn thirty_two(w: Packed, p0: vec4<u32>, p1: vec4<u32>, p2: vec4<u32>, p3: vec4<u32>) -> i32 {
    let pairs = pairs_of(w);
    let even = even_of(pairs);
    let odd = odd_of(pairs);
    let even_high = dot4I8Packed(even.x, p0.x) + dot4I8Packed(even.y, p1.x)
        + dot4I8Packed(even.z, p2.x) + dot4I8Packed(even.w, p3.x);
    let even_low = dot4I8Packed(even.x, p0.z) + dot4I8Packed(even.y, p1.z)
        + dot4I8Packed(even.z, p2.z) + dot4I8Packed(even.w, p3.z);
    let odd_high = dot4I8Packed(odd.x, p0.y) + dot4I8Packed(odd.y, p1.y)
        + dot4I8Packed(odd.z, p2.y) + dot4I8Packed(odd.w, p3.y);
    let odd_low = dot4I8Packed(odd.x, p0.w) + dot4I8Packed(odd.y, p1.w)
        + dot4I8Packed(odd.z, p2.w) + dot4I8Packed(odd.w, p3.w);
    return (even_high * 256 + even_low) * TIMES + odd_high * 256 + odd_low;
}
