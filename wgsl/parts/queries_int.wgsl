// Scores of packed keys with up to four query heads, by integer products of 4 bytes. Queries are whole numbers
// v = q / s of 15 bits and a sign, in two bytes each, v = 256 h + l: closer than f16. With codes u of zero z,
// sum q (u - z) = s (256 sum h u + sum l u - z sum v), exactly but for the rounding of q to s.
// Needs scale_of (packed8), greatest_of (fresh8), KEY_BITS.

// Of each head and lane the bytes of 8 values: h of the first four and of the last, l of the same; and where sums begin.
override PLANES: u32 = 4u * LANES;
var<workgroup> planes: array<vec4<u32>, PLANES>;
var<workgroup> starts: array<i32, PLANES>;
// s of each head.
var<workgroup> units: array<f32, 4>;

// A whole number of less than 22 bits that is added to these bits of 1.5 * 2^23 is one in f32, but for that power: a
// conversion would be slow on some GPUs.
const POWER: i32 = 0x4b400000;
const POWER_IS: f32 = 12582912.0;

fn whole4(q: vec4<f32>, inverse: f32) -> vec4<i32> {
    return vec4<i32>(round(q * inverse));
}

fn gather_bytes(v: vec4<u32>) -> u32 {
    return (v.x & 255u) | ((v.y & 255u) << 8u) | ((v.z & 255u) << 16u) | (v.w << 24u);
}

// Keeps lane c's part of a query that its part of the workgroup has made ready; all call.
fn keep_query(lane: u32, c: u32, row: u32, q: mat2x4<f32>) {
    let unit = greatest_of(lane, q, LANES) * (1.0 / 32512.0);
    let inverse = 1.0 / max(unit, 1.0e-34);
    let first = whole4(q[0], inverse);
    let last = whole4(q[1], inverse);
    if row >= HEADS {
        return;
    }
    let up = bitcast<vec4<u32>>(first + vec4<i32>(128));
    let down = bitcast<vec4<u32>>(last + vec4<i32>(128));
    planes[row * LANES + c] = vec4<u32>(
        gather_bytes(up >> vec4<u32>(8u)),
        gather_bytes(down >> vec4<u32>(8u)),
        gather_bytes(up) ^ 0x80808080u,
        gather_bytes(down) ^ 0x80808080u,
    );
    // Codes of 8 bits are multiplied less their zero; that of 4 bits is 7.5.
    let both = first + last;
    let zeros = select(15 * (both.x + both.y + both.z + both.w) / 2, 0, KEY_BITS == 8u);
    starts[row * LANES + c] = POWER - zeros;
    if c == 0u {
        units[row] = unit;
    }
}

struct Queries { a: vec4<u32>, b: vec4<u32>, c: vec4<u32>, d: vec4<u32>, starts: vec4<i32>, unit: vec4<f32> }

// Lane c's part of the queries that were kept.
fn queries_of(c: u32) -> Queries {
    let at = min(vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(HEADS - 1u)) * LANES + c;
    return Queries(
        planes[at.x],
        planes[at.y],
        planes[at.z],
        planes[at.w],
        vec4<i32>(starts[at.x], starts[at.y], starts[at.z], starts[at.w]),
        vec4<f32>(units[0], units[min(1u, HEADS - 1u)], units[min(2u, HEADS - 1u)], units[HEADS - 1u]),
    );
}

// POWER_IS and lane c's part of sum v (u - z) for one query.
fn whole_score(q: vec4<u32>, start: i32, first: u32, last: u32) -> f32 {
    let low = start + dot4I8Packed(first, q.z) + dot4I8Packed(last, q.w);
    if KEY_BITS == 8u {
        let high = POWER + dot4I8Packed(first, q.x) + dot4I8Packed(last, q.y);
        return 256.0 * (bitcast<f32>(high) - POWER_IS) + bitcast<f32>(low);
    }
    return bitcast<f32>(256 * (dot4I8Packed(first, q.x) + dot4I8Packed(last, q.y)) + low);
}

// This lane's share, relative to the unit.
fn scores(q: Queries, key: Eight, h: u32, c: u32) -> vec4<f32> {
    var first = key.words.x ^ 0x80808080u;
    var last = key.words.y ^ 0x80808080u;
    if KEY_BITS == 4u {
        first = key.words.x & 0x0f0f0f0fu;
        last = (key.words.x >> 4u) & 0x0f0f0f0fu;
    }
    var sums = vec4<f32>(whole_score(q.a, q.starts.x, first, last), POWER_IS, POWER_IS, POWER_IS);
    if HEADS > 1u { sums.y = whole_score(q.b, q.starts.y, first, last); }
    if HEADS > 2u { sums.z = whole_score(q.c, q.starts.z, first, last); }
    if HEADS > 3u { sums.w = whole_score(q.d, q.starts.w, first, last); }
    let scale = scale_of(key, h, c);
    return fma(vec4<f32>(scale), sums, vec4<f32>(-POWER_IS * scale));
}

fn unit_of(q: Queries) -> vec4<f32> {
    return q.unit;
}
