// y = act(g) * u
//
// Work split: one invocation per element.
// Parts: act.

struct Params { n: u32, stride: u32 }

@group(0) @binding(0) var<storage, read> g: array<f32>;
@group(0) @binding(1) var<storage, read> u: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (group.y * params.stride + group.x) * 256u + lane;
    if i < params.n {
        y[i] = act(g[i]) * u[i];
    }
}
