// a <- a m + c, ROUNDS times, in registers: how fast f32 multiplies and adds.
//
// 16 independent chains per invocation in 4 vectors, 4 steps of each a round: 64 fma, 128 operations.
// Best: 60 TFLOP/s on an NVIDIA H200.

override WG: u32 = 256;

struct Params { rounds: u32, m: f32, c: f32 }

@group(0) @binding(0) var<storage, read_write> y: array<f32>;
@group(0) @binding(1) var<uniform> params: Params;

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let m = vec4(params.m);
    let c = vec4(params.c);
    var a = vec4(f32(id.x)) + vec4(0.0, 1.0, 2.0, 3.0);
    var b = a + 4.0;
    var d = a + 8.0;
    var e = a + 12.0;
    for (var i = 0u; i < params.rounds; i++) {
        a = fma(a, m, c);
        b = fma(b, m, c);
        d = fma(d, m, c);
        e = fma(e, m, c);
        a = fma(a, m, c);
        b = fma(b, m, c);
        d = fma(d, m, c);
        e = fma(e, m, c);
        a = fma(a, m, c);
        b = fma(b, m, c);
        d = fma(d, m, c);
        e = fma(e, m, c);
        a = fma(a, m, c);
        b = fma(b, m, c);
        d = fma(d, m, c);
        e = fma(e, m, c);
    }
    let sum = a + b + d + e;
    // Never so, but no compiler knows.
    if sum.x + sum.y + sum.z + sum.w == 0.3330078125 { y[0] = sum.x; }
}
