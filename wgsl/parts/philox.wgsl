// Philox 4x32-10 (Salmon, Moraes, Dror and Shaw 2011): four random words of a key and a counter.

// The upper word of a product.
fn multiply_high(a: u32, b: u32) -> u32 {
    let low = (a & 0xffffu) * (b & 0xffffu);
    let left = (a >> 16u) * (b & 0xffffu);
    let right = (a & 0xffffu) * (b >> 16u);
    let middle = (low >> 16u) + (left & 0xffffu) + right;
    return (a >> 16u) * (b >> 16u) + (left >> 16u) + (middle >> 16u);
}

fn philox(key: vec2<u32>, counter: vec4<u32>) -> vec4<u32> {
    var k = key;
    var c = counter;
    for (var round = 0u; round < 10u; round++) {
        let first = multiply_high(0xd2511f53u, c.x);
        let second = multiply_high(0xcd9e8d57u, c.z);
        c = vec4<u32>(second ^ c.y ^ k.x, 0xcd9e8d57u * c.z, first ^ c.w ^ k.y, 0xd2511f53u * c.x);
        k += vec2<u32>(0x9e3779b9u, 0xbb67ae85u);
    }
    return c;
}

// A number in [0, 1), a multiple of 2^-24.
fn uniform_number(seed: vec2<u32>, step: u32) -> f32 {
    return f32(philox(seed, vec4<u32>(step, 0u, 0u, 0u)).x >> 8u) / 16777216.0;
}
