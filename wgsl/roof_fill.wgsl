// x[i] = a hash of i: words that no memory compresses.
//
// One vec4 per invocation at a time, the whole grid striding over the buffer.

override WG: u32 = 256;

struct Params { n: u32, threads: u32 }

@group(0) @binding(0) var<storage, read_write> x: array<vec4<u32>>;
@group(0) @binding(1) var<uniform> params: Params;

fn hash(i: u32) -> u32 {
    var h = i * 747796405u + 2891336453u;
    h = ((h >> ((h >> 28u) + 4u)) ^ h) * 277803737u;
    return (h >> 22u) ^ h;
}

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    for (var i = id.x; i < params.n; i += params.threads) {
        x[i] = vec4(hash(4u * i), hash(4u * i + 1u), hash(4u * i + 2u), hash(4u * i + 3u));
    }
}
