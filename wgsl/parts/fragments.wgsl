// Products of matrices whose elements stand in registers of 32 neighbours, as NVIDIA's do: lane 4 g + t holds, two halves to a
// word, of a (16 x 16) row g at columns 2 t, 2 t + 1 and at 2 t + 8, 2 t + 9, then row g + 8; of b (16 x 8) column g at rows 2 t,
// 2 t + 1 and at 2 t + 8, 2 t + 9; of c (16 x 8) row g at columns 2 t, 2 t + 1, then row g + 8.
// This is what both functions mean, on any device; gpu/fragments.rs makes each word of theirs one instruction where there are
// such. Needs WG.

// The first halves of two words, and the second.
fn fragment_pairs(a: u32, b: u32) -> vec2<u32> {
    return vec2<u32>((a & 0xffffu) | (b << 16u), (a >> 16u) | (b & 0xffff0000u));
}

var<workgroup> fragments_a: array<vec4<u32>, WG>;
var<workgroup> fragments_b: array<vec2<u32>, WG>;

fn half_dot(a: u32, b: u32) -> f32 {
    return dot(unpack2x16float(a), unpack2x16float(b));
}

// c + a b; all call.
fn fragment_product(a: vec4<u32>, b: vec2<u32>, c: vec4<f32>, lane: u32) -> vec4<f32> {
    fragments_a[lane] = a;
    fragments_b[lane] = b;
    workgroupBarrier();
    let first = lane & ~31u;
    let row = first + (lane & 28u);
    let column = first + 8u * (lane & 3u);
    var sum = c;
    for (var t = 0u; t < 4u; t++) {
        let x = fragments_a[row + t];
        let left = fragments_b[column + t];
        let right = fragments_b[column + 4u + t];
        sum += vec4<f32>(
            half_dot(x.x, left.x) + half_dot(x.y, left.y),
            half_dot(x.x, right.x) + half_dot(x.y, right.y),
            half_dot(x.z, left.x) + half_dot(x.w, left.y),
            half_dot(x.z, right.x) + half_dot(x.w, right.y),
        );
    }
    workgroupBarrier();
    return sum;
}
