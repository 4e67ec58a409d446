// a <- a + dot4(bytes of a, b), ROUNDS times, in registers: how fast packed int8 multiplies and adds.
//
// 8 independent chains per invocation, 8 steps of each a round: 64 dot products of 4, 512 operations.

override WG: u32 = 256;

struct Params { rounds: u32, b: u32 }

@group(0) @binding(0) var<storage, read_write> y: array<u32>;
@group(0) @binding(1) var<uniform> params: Params;

fn step(a: u32, b: u32) -> u32 {
    return a + u32(dot4I8Packed(a, b));
}

fn steps(a: u32, b: u32) -> u32 {
    return step(step(step(step(step(step(step(step(a, b), b), b), b), b), b), b), b);
}

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let b = params.b;
    var c0 = id.x;
    var c1 = id.x + 1u;
    var c2 = id.x + 2u;
    var c3 = id.x + 3u;
    var c4 = id.x + 4u;
    var c5 = id.x + 5u;
    var c6 = id.x + 6u;
    var c7 = id.x + 7u;
    for (var i = 0u; i < params.rounds; i++) {
        c0 = steps(c0, b);
        c1 = steps(c1, b);
        c2 = steps(c2, b);
        c3 = steps(c3, b);
        c4 = steps(c4, b);
        c5 = steps(c5, b);
        c6 = steps(c6, b);
        c7 = steps(c7, b);
    }
    // Hardly ever so, and no compiler knows.
    if (c0 ^ c1 ^ c2 ^ c3 ^ c4 ^ c5 ^ c6 ^ c7) == 0x5bd1e995u { y[0] = c0; }
}
