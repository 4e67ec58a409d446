// One row of x as whole numbers, for integer products of 4 bytes with the codes of affine weights.
//
// 32 values of x become v = x / s of 15 bits and a sign, kept as two planes of bytes, v = 256 h + l. With w = a q + b
// over a group,
//     sum x w = a s (256 sum h q + sum l q) + b s sum v
// exactly but for the rounding of x to s, which is at most 2^-15 of the greatest of the 32: closer than f16.
// A workgroup of WG invocations makes the planes together, laid out so that neighbours read neighbouring words.
// Parts: x8 and dot8 (x_aligned), gain8 (gain, no_gain), thirty_two, centred, first4, last4 (codes_*), widen (floats).
enable subgroups;

// Values of x in units of 8 and in chunks of 32.
const UNITS: u32 = params.units;
const CHUNKS: u32 = params.units / 4u;

// Of unit i: words of high bytes, first and last, then of low bytes; unit 4 c + j at j * CHUNKS + c.
var<workgroup> planes: array<vec4<u32>, UNITS>;
// Of each chunk: the scale, and times the scale what centring codes takes off sums, and the sum of the numbers.
var<workgroup> scaling: array<vec4<f32>, CHUNKS>;

// The bytes of 4 whole numbers: high, low.
fn split(v: vec4<i32>) -> vec2<u32> {
    return vec2<u32>(pack4xI8((v + vec4<i32>(128)) >> vec4<u32>(8u)), pack4xI8(v));
}

// Returns the squares of the values that this invocation took.
fn make_planes(lane: u32) -> f32 {
    var own = 0.0;
    for (var i = lane; i < UNITS; i += WG) {
        let raw = x8(0u, i);
        let gain = gain8(i);
        own += dot8(raw, raw);
        let x = mat2x4<f32>(raw[0] * gain[0], raw[1] * gain[1]);
        let pairs = max(abs(x[0]), abs(x[1]));
        var greatest = max(max(pairs.x, pairs.y), max(pairs.z, pairs.w));
        greatest = max(greatest, subgroupShuffleXor(greatest, 1u));
        greatest = max(greatest, subgroupShuffleXor(greatest, 2u));
        let inverse = select(32512.0 / greatest, 0.0, greatest < 1.0e-30);
        let a = vec4<i32>(round(x[0] * inverse));
        let b = vec4<i32>(round(x[1] * inverse));
        let four = a + b;
        var sums = vec2<i32>(centred(a, b), four.x + four.y + four.z + four.w);
        sums += subgroupShuffleXor(sums, 1u);
        sums += subgroupShuffleXor(sums, 2u);
        let first = split(first4(a, b));
        let last = split(last4(a, b));
        planes[(i & 3u) * CHUNKS + (i >> 2u)] = vec4<u32>(first.x, last.x, first.y, last.y);
        if (i & 3u) == 0u {
            let scale = greatest / 32512.0;
            scaling[i >> 2u] = vec4<f32>(scale / SHIFTED, scale * vec2<f32>(sums), 0.0);
        }
    }
    return own;
}

// Chunk by chunk: 32 codes with what the planes have of x.
fn product(w: Packed, p0: vec4<u32>, p1: vec4<u32>, p2: vec4<u32>, p3: vec4<u32>, s: vec4<f32>) -> f32 {
    let scale = widen(SCALES, w.scale, w.group);
    let offset = widen(SCALES, w.offset, w.group);
    return scale * (f32(thirty_two(w, p0, p1, p2, p3)) * s.x + s.y) + offset * s.z;
}
