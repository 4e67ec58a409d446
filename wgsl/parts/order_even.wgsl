// Which bytes of x meet which of a weight whose codes stand in pairs: of each unit of 8 the even ones, and the odd ones.

fn first4(a: vec4<i32>, b: vec4<i32>) -> vec4<i32> {
    return vec4<i32>(a.x, a.z, b.x, b.z);
}

fn last4(a: vec4<i32>, b: vec4<i32>) -> vec4<i32> {
    return vec4<i32>(a.y, a.w, b.y, b.w);
}
