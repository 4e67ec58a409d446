// Which bytes of x meet which of codes_q4: of each unit of 8 the even ones, and the odd ones, whose sums have the factor
// 16.

// How many times too large sums are.
const SHIFTED: f32 = 16.0;

// What centring takes off a sum of codes with these numbers.
fn centred(a: vec4<i32>, b: vec4<i32>) -> i32 {
    return 8 * (a.y + a.w + b.y + b.w);
}

fn first4(a: vec4<i32>, b: vec4<i32>) -> vec4<i32> {
    return vec4<i32>(a.x, a.z, b.x, b.z);
}

fn last4(a: vec4<i32>, b: vec4<i32>) -> vec4<i32> {
    return vec4<i32>(a.y, a.w, b.y, b.w);
}
