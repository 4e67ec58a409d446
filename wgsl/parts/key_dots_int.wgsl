// Scores of packed keys with up to four query heads, by integer products of 4 bytes. Queries are whole numbers
// v = q / s of 15 bits and a sign, kept as two planes of bytes, v = 256 h + l: closer than f16. With codes u of
// zero z, sum q (u - z) = s (256 sum h u + sum l u - z sum v), exactly but for the rounding of q to s.
// Needs made_ready (meet), KEY_BITS.

// Of 4 values: words of high bytes of the four heads, then of low bytes.
override PLANES: u32 = 4u * LANES;
var<workgroup> planes: array<vec4<u32>, PLANES>;
// Per head: its greatest magnitude; per group and head the sum of whole numbers.
var<workgroup> peaks: array<f32, 4>;
var<workgroup> query_sums: array<i32, 16>;

struct Sums { high: vec4<i32>, low: vec4<i32> }

fn whole4(q: vec4<f32>, peak: f32) -> vec4<i32> {
    return vec4<i32>(round(q * (32512.0 / max(peak, 1.0e-30))));
}

// What a query head's lanes leave for keep_queries; all call.
fn note_query(lane: u32, c: u32, row: u32, q: mat2x4<f32>) {
    let peak = greatest_of(lane, q, LANES);
    let own = vec4<f32>(whole4(q[0], peak) + whole4(q[1], peak));
    var sum = vec4<f32>(own.x + own.y + own.z + own.w);
    for (var distance = 1u; distance < 8u; distance *= 2u) {
        sum += across4(lane, sum, distance);
    }
    if row < HEADS {
        if c == 0u {
            peaks[row] = peak;
        }
        if c % 8u == 0u {
            query_sums[(c / 8u) * 4u + row] = i32(sum.x);
        }
    }
}

fn gather_bytes(v: vec4<u32>) -> u32 {
    return (v.x & 255u) | ((v.y & 255u) << 8u) | ((v.z & 255u) << 16u) | (v.w << 24u);
}

// The bytes of 4 whole numbers: high, low.
fn split(v: vec4<i32>) -> vec2<u32> {
    let up = bitcast<vec4<u32>>(v + vec4<i32>(128));
    return vec2<u32>(gather_bytes(up >> vec4<u32>(8u)), gather_bytes(up) ^ 0x80808080u);
}

fn query4(row: u32, j: u32) -> vec2<u32> {
    return split(whole4(meeting[2u * row * LANES + j], peaks[row]));
}

// Makes the planes of the queries that are ready.
fn keep_queries(lane: u32) {
    for (var j = lane; j < 2u * LANES; j += WG) {
        let a = query4(0u, j);
        var b = vec2<u32>();
        var c = vec2<u32>();
        var d = vec2<u32>();
        if HEADS > 1u { b = query4(1u, j); }
        if HEADS > 2u { c = query4(2u, j); }
        if HEADS > 3u { d = query4(3u, j); }
        planes[2u * j] = vec4<u32>(a.x, b.x, c.x, d.x);
        planes[2u * j + 1u] = vec4<u32>(a.y, b.y, c.y, d.y);
    }
}

fn no_sums() -> Sums {
    return Sums(vec4<i32>(), vec4<i32>());
}

fn add_codes(sums: Sums, codes: u32, j: u32) -> Sums {
    let high = planes[2u * j];
    let low = planes[2u * j + 1u];
    var result = sums;
    result.high.x += dot4I8Packed(codes, high.x);
    result.low.x += dot4I8Packed(codes, low.x);
    if HEADS > 1u {
        result.high.y += dot4I8Packed(codes, high.y);
        result.low.y += dot4I8Packed(codes, low.y);
    }
    if HEADS > 2u {
        result.high.z += dot4I8Packed(codes, high.z);
        result.low.z += dot4I8Packed(codes, low.z);
    }
    if HEADS > 3u {
        result.high.w += dot4I8Packed(codes, high.w);
        result.low.w += dot4I8Packed(codes, low.w);
    }
    return result;
}

// A word of codes, the first of which is of the head's vector j.
fn add_word(sums: Sums, word: u32, j: u32) -> Sums {
    if KEY_BITS == 8u {
        return add_codes(sums, word ^ 0x80808080u, j);
    }
    return add_codes(add_codes(sums, word & 0x0f0f0f0fu, j), (word >> 4u) & 0x0f0f0f0fu, j + 1u);
}

// A group's scores before its scale.
fn group_scores(sums: Sums, g: u32) -> vec4<f32> {
    let whole = sums.high * 256 + sums.low;
    let unit = vec4<f32>(peaks[0], peaks[1], peaks[2], peaks[3]) * (1.0 / 32512.0);
    if KEY_BITS == 8u {
        return unit * vec4<f32>(whole);
    }
    let at = 4u * g;
    let all = vec4<i32>(query_sums[at], query_sums[at + 1u], query_sums[at + 2u], query_sums[at + 3u]);
    return (0.5 * unit) * vec4<f32>(2 * whole - 15 * all);
}
