// Pairs (a, b) of the first `rotated` values of a head become (a cos - b sin, b cos + a sin), with the angle
// places[t].x * inv_freq[pair], cosine and sine times `scale`; the other values stay.
//
// Work split: one invocation per value.
// Parts: cos_sin_of_place (angle).

struct Params {
    size: u32,
    heads: u32,
    d: u32,
    rotated: u32,
    interleaved: u32,
    stride: u32,
    scale: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> places: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> inv_freq: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let index = (group.y * params.stride + group.x) * 256u + lane;
    if index >= params.size {
        return;
    }
    let i = index % params.d;
    if i >= params.rotated {
        y[index] = x[index];
        return;
    }
    let half = params.rotated / 2u;
    var first = i < half;
    var frequency = select(i - half, i, first);
    var distance = half;
    if params.interleaved != 0u {
        first = (i & 1u) == 0u;
        frequency = i >> 1u;
        distance = 1u;
    }
    let t = index / (params.d * params.heads);
    let turn = params.scale * cos_sin_of_place(f32(places[t].x) * inv_freq[frequency]);
    let partner = x[select(index - distance, index + distance, first)];
    y[index] = x[index] * turn.x + select(partner, -partner, first) * turn.y;
}
