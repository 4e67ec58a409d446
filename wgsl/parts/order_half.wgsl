// Which bytes of x meet which of a weight with a code in each byte: of each unit of 8 the first four and the last.

fn first4(a: vec4<i32>, b: vec4<i32>) -> vec4<i32> {
    return a;
}

fn last4(a: vec4<i32>, b: vec4<i32>) -> vec4<i32> {
    return b;
}
