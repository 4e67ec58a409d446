// 2 to 4 rows of x in registers as planes of bytes, which `bytes` has made and normed, for packed weights. Invocation `member`
// of a team has chunk `member` of 32 values; past the end there is none.
// Needs M, params; Packed, packed (codes_*), product.

const CHUNKS: u32 = params.units / 4u;

// A chunk of one row of x.
struct Held { p0: vec4<u32>, p1: vec4<u32>, p2: vec4<u32>, p3: vec4<u32>, scaling: vec4<f32> }

var<private> x_a: Held;
var<private> x_b: Held;
var<private> x_c: Held;
var<private> x_d: Held;

fn held(m: u32, member: u32) -> Held {
    let c = min(member, CHUNKS - 1u);
    let row = c / 32u * M + m;
    let at = row * 128u + c % 32u;
    let scaling = select(vec4<f32>(0.0), all_scaling[row * 32u + c % 32u], member < CHUNKS);
    return Held(all_planes[at], all_planes[at + 32u], all_planes[at + 64u], all_planes[at + 96u], scaling);
}

fn hold(member: u32) {
    x_a = held(0u, member);
    x_b = held(1u, member);
    if M > 2u { x_c = held(2u, member); }
    if M > 3u { x_d = held(3u, member); }
}

fn prepare(lane: u32, member: u32, at: u32, size: u32) {
}

fn factor_of(m: u32) -> f32 {
    return 1.0;
}

fn fetch(row: u32, member: u32) -> Packed {
    return packed(row, min(member, CHUNKS - 1u));
}

fn by(w: Packed, x: Held) -> f32 {
    return product(w, x.p0, x.p1, x.p2, x.p3, x.scaling);
}

// Each row of x by what is fetched of a row of W.
fn multiply(w: Packed) -> mat2x4<f32> {
    var y = mat2x4<f32>();
    y[0].x = by(w, x_a);
    y[0].y = by(w, x_b);
    if M > 2u { y[0].z = by(w, x_c); }
    if M > 3u { y[0].w = by(w, x_d); }
    return y;
}
