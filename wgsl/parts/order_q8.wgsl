// Which bytes of x meet which of codes_q8: of each unit of 8 the first four and the last.

// How many times too large sums are.
const SHIFTED: f32 = 1.0;

// What centring takes off a sum of codes with these numbers.
fn centred(a: vec4<i32>, b: vec4<i32>) -> i32 {
    let four = a + b;
    return 128 * (four.x + four.y + four.z + four.w);
}

fn first4(a: vec4<i32>, b: vec4<i32>) -> vec4<i32> {
    return a;
}

fn last4(a: vec4<i32>, b: vec4<i32>) -> vec4<i32> {
    return b;
}
