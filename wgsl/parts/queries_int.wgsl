// Queries as whole numbers v = q / s of 15 bits and a sign, in two bytes each, v = 256 h + l: closer than f16. With codes u
// of zero z, sum q (u - z) = s (256 sum h u + sum l u - z sum v), exactly but for the rounding of q to s.
// Needs greatest_of (greatest); KEY_BITS (fresh8); TEAM, TWO_ON, ONE_ON (keys_int).

// Of each head and lane the bytes of 8 values: h of the first four and of the last, l of the same; and -z sum v. What a
// lane of a team reads together, its 32 values, stands TEAM apart, so that neighbours read neighbours.
override PLANES: u32 = 4u * LANES;
var<workgroup> planes: array<vec4<u32>, PLANES>;
var<workgroup> zeros: array<i32, PLANES>;
// s of each head.
var<workgroup> units: array<f32, 4>;

fn whole4(q: vec4<f32>, inverse: f32) -> vec4<i32> {
    return vec4<i32>(round(q * inverse));
}

fn gather_bytes(v: vec4<u32>) -> u32 {
    return (v.x & 255u) | ((v.y & 255u) << 8u) | ((v.z & 255u) << 16u) | (v.w << 24u);
}

// Keeps lane c's part of a query, q times `unit`, that its part of the workgroup has made ready; all call.
fn keep_query(lane: u32, c: u32, row: u32, q: mat2x4<f32>, unit: f32) {
    let whole = greatest_of(lane, q, LANES) * (1.0 / 32512.0);
    let inverse = 1.0 / max(whole, 1.0e-34);
    let first = whole4(q[0], inverse);
    let last = whole4(q[1], inverse);
    if row >= HEADS {
        return;
    }
    let up = bitcast<vec4<u32>>(first + vec4<i32>(128));
    let down = bitcast<vec4<u32>>(last + vec4<i32>(128));
    let at = row * LANES + (c % 4u) * TEAM + c / 4u;
    planes[at] = vec4<u32>(
        gather_bytes(up >> vec4<u32>(8u)),
        gather_bytes(down >> vec4<u32>(8u)),
        gather_bytes(up) ^ 0x80808080u,
        gather_bytes(down) ^ 0x80808080u,
    );
    // z is 7.5 for 4 bits; codes of 8 are multiplied less theirs.
    let both = first + last;
    zeros[at] = select(-15 * (both.x + both.y + both.z + both.w) / 2, 0, KEY_BITS == 8u);
    if c == 0u {
        units[row] = unit * whole;
    }
}

// What a lane needs to know of the queries: units of its own heads, for scores in powers of two, and zeros of its values.
struct Own { unit: vec2<f32>, zeros: vec4<i32> }

fn zero_of(head: u32, l: u32) -> i32 {
    let first = min(head, HEADS - 1u) * LANES + l;
    return zeros[first] + zeros[first + TEAM] + zeros[first + 2u * TEAM] + zeros[first + 3u * TEAM];
}

// Once queries stand ready.
fn with_rows(lane: u32) -> Own {
    let l = lane % TEAM;
    let first = select(0u, 2u, HEADS > 2u && (l & TWO_ON) != 0u) + select(0u, 1u, HEADS > 1u && (l & ONE_ON) != 0u);
    let log2_e = 1.4426950408889634;
    return Own(
        log2_e * vec2<f32>(units[min(first, HEADS - 1u)], units[min(first + 1u, HEADS - 1u)]),
        vec4<i32>(zero_of(0u, l), zero_of(1u, l), zero_of(2u, l), zero_of(3u, l)),
    );
}
