// y = act(g) * u
//
// Work split: one invocation per element.
// Parts: erf.

struct Params { n: u32, stride: u32 }

@group(0) @binding(0) var<storage, read> g: array<f32>;
@group(0) @binding(1) var<storage, read> u: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

// 0 silu, 1 gelu by tanh, 2 gelu.
override KIND: u32 = 0u;

// Exponents are cut where the result no longer changes, before they overflow.
fn act(x: f32) -> f32 {
    if KIND == 0u {
        return x / (1.0 + exp(min(-x, 80.0)));
    }
    if KIND == 1u {
        let inner = 0.7978845608 * (x + 0.044715 * x * x * x);
        return 0.5 * x * (1.0 + tanh(clamp(inner, -20.0, 20.0)));
    }
    return 0.5 * x * (1.0 + erf(x * 0.7071067812));
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (group.y * params.stride + group.x) * 256u + lane;
    if i < params.n {
        y[i] = act(g[i]) * u[i];
    }
}
