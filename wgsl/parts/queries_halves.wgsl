// Queries as a factor of fragment products: q 2^n as two halves, what one holds and what is lacking, which is as close as f32
// but for a bit or two; n brings the greatest of a head to between 2^13 and 2^14. Column 2 t of the factor is what halves
// hold of query head t, column 2 t + 1 what is lacking.
// Needs greatest_of (greatest); across4 (lanes_*); LANES, HEADS (found); half_pairs, share, IS_SCALED, KEY_ZERO, KEY_UNIT
// (codes_fragments, halves_fragments).

// Of each head lane by lane 8 values that halves hold, then those that are lacking.
override PLANES: u32 = 8u * LANES;
var<workgroup> planes: array<vec4<u32>, PLANES>;
// Of each head -z sum q 2^n over each 64 values, for codes less their zero z.
var<workgroup> zeros: array<f32, 16>;
// 2^-n of each head, times what numbers of a product are too small by.
var<workgroup> units: array<f32, 4>;

// Numbers without what a half cannot hold. NVIDIA's compiler takes a number that became a half and then one again for
// itself.
fn leading(x: vec2<f32>) -> vec2<f32> {
    return bitcast<vec2<f32>>(bitcast<vec2<u32>>(x) & vec2<u32>(0xffffe000u));
}

fn leading8(x: mat2x4<f32>) -> mat2x4<f32> {
    return mat2x4<f32>(
        vec4<f32>(leading(x[0].xy), leading(x[0].zw)),
        vec4<f32>(leading(x[1].xy), leading(x[1].zw)),
    );
}

// Keeps lane c's part of a query, q times `unit`, that its part of the workgroup has made ready; all call.
fn keep_query(lane: u32, c: u32, row: u32, q: mat2x4<f32>, unit: f32) {
    // Before the greatest is known: sums need not wait for it.
    var sum = q[0] + q[1];
    if IS_SCALED {
        sum = vec4<f32>(dot(sum, vec4<f32>(1.0)));
        for (var distance = 1u; distance < 8u; distance *= 2u) {
            sum += across4(lane, sum, distance);
        }
    }
    let most = max(greatest_of(lane, q, LANES), 1.0e-30);
    let power = bitcast<f32>((267u - min(bitcast<u32>(most) >> 23u, 253u)) << 23u);
    let x = mat2x4<f32>(power * q[0], power * q[1]);
    if row >= HEADS {
        return;
    }
    let held = leading8(x);
    let at = 2u * row * LANES + c;
    planes[at] = half_pairs(held);
    planes[at + LANES] = half_pairs(mat2x4<f32>(x[0] - held[0], x[1] - held[1]));
    if IS_SCALED && c % 8u == 0u {
        zeros[row * 4u + c / 8u] = -KEY_ZERO * power * sum.x;
    }
    if c == 0u {
        units[row] = KEY_UNIT * unit / power;
    }
}

// What a lane needs to know of the queries: its part of the factors, and of head t zeros and the unit, for scores in powers
// of two.
struct Own { a: vec4<u32>, b: vec4<u32>, c: vec4<u32>, d: vec4<u32>, zeros: vec2<f32>, unit: f32 }

// Once queries stand ready.
fn with_rows(lane: u32) -> Own {
    let l = lane & 31u;
    let first = (2u * min(l / 8u, HEADS - 1u) + ((l / 4u) & 1u)) * LANES;
    let t = l & 3u;
    let head = min(t, HEADS - 1u);
    let log2_e = 1.4426950408889634;
    var own = Own();
    own.a = planes[first + share(t, 0u)];
    own.b = planes[first + share(t, 1u)];
    if LANES == 16u {
        own.c = planes[first + share(t, 2u)];
        own.d = planes[first + share(t, 3u)];
    }
    if IS_SCALED {
        own.zeros = vec2<f32>(zeros[4u * head], zeros[4u * head + 1u]);
    }
    own.unit = log2_e * units[head];
    return own;
}
