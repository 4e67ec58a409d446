// Rows of x as whole numbers, for integer products of 4 bytes with the codes of affine weights.
//
// 32 values of x become v = x / s of 15 bits and a sign, kept as two planes of bytes, v = 256 h + l. With w = a q + b
// over a group,
//     sum x w = a s (256 sum h q + sum l q) + b s sum v
// exactly but for the rounding of x to s, which is at most 2^-15 of the greatest of the 32: closer than f16.
// Parts: first4, last4 (order_*).
enable subgroups;

// What codes that meet the first four and the last are less by, as signed bytes.
override ZERO_FIRST: i32 = 0;
override ZERO_LAST: i32 = 0;

// 8 values: words of their high bytes, first and last, then of low bytes. Of the 32 they belong to: the scale, and
// times the scale what centring codes takes off sums, and the sum of the numbers.
struct Numbers { words: vec4<u32>, scaling: vec4<f32> }

// The bytes of 4 whole numbers: high, low.
fn split(v: vec4<i32>) -> vec2<u32> {
    return vec2<u32>(pack4xI8((v + vec4<i32>(128)) >> vec4<u32>(8u)), pack4xI8(v));
}

// Four neighbouring lanes bring 32 values.
fn numbers(x: mat2x4<f32>) -> Numbers {
    let pairs = max(abs(x[0]), abs(x[1]));
    var greatest = max(max(pairs.x, pairs.y), max(pairs.z, pairs.w));
    greatest = max(greatest, subgroupShuffleXor(greatest, 1u));
    greatest = max(greatest, subgroupShuffleXor(greatest, 2u));
    let inverse = select(32512.0 / greatest, 0.0, greatest < 1.0e-30);
    let a = vec4<i32>(round(x[0] * inverse));
    let b = vec4<i32>(round(x[1] * inverse));
    let ahead = first4(a, b);
    let behind = last4(a, b);
    let four = ZERO_FIRST * ahead + ZERO_LAST * behind;
    let eight = ahead + behind;
    var sums = vec2<i32>(four.x + four.y + four.z + four.w, eight.x + eight.y + eight.z + eight.w);
    sums += subgroupShuffleXor(sums, 1u);
    sums += subgroupShuffleXor(sums, 2u);
    let first = split(ahead);
    let last = split(behind);
    let scale = greatest / 32512.0;
    return Numbers(
        vec4<u32>(first.x, last.x, first.y, last.y),
        vec4<f32>(scale, scale * vec2<f32>(sums), 0.0),
    );
}
