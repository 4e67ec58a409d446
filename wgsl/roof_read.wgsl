// y = a combination of all of x: how fast memory can be read.
//
// Each invocation reads LOADS vec4s a round, the whole grid striding over the buffer, so that neighbours
// read neighbours; n is a multiple of LOADS threads. Best: 4.54 TB/s of 4.8 on an NVIDIA H200.

override WG: u32 = 256;
const LOADS: u32 = 4;

struct Params { n: u32, threads: u32 }

@group(0) @binding(0) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    var mixed = vec4(0u);
    let threads = params.threads;
    for (var i = id.x; i < params.n; i += LOADS * threads) {
        let a = x[i];
        let b = x[i + threads];
        let c = x[i + 2u * threads];
        let d = x[i + 3u * threads];
        mixed ^= (a + b) ^ (c + d);
    }
    // Never so, but no compiler knows.
    if all(mixed == vec4(0x5bd1e995u, 1u, 2u, 3u)) { y[0] = 1u; }
}
