// 2 to 4 rows of x in registers as planes of bytes, which `bytes` has made and normed, for packed weights. Invocation `member`
// of a team has chunk `member` of 32 values; past the end there is none.
// Needs M; Held, CHUNKS, multiply (by_chunks).

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

// Each row of x by what is fetched of a row of W.
fn multiply_all(w: Packed) -> mat2x4<f32> {
    var y = mat2x4<f32>();
    y[0].x = multiply(w, x_a);
    y[0].y = multiply(w, x_b);
    if M > 2u { y[0].z = multiply(w, x_c); }
    if M > 3u { y[0].w = multiply(w, x_d); }
    return y;
}
