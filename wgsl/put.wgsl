// base[at[r], c] = rows[r, c] for at[r] < params.capacity: 32-bit elements, written in place.
//
// Work split: one invocation per element of `rows`. Rows with equal indices race; callers do not do that.

struct Params { width: u32, count: u32, capacity: u32, stride: u32 }
@group(0) @binding(0) var<storage, read> rows: array<u32>;
@group(0) @binding(1) var<storage, read> at: array<u32>;
@group(0) @binding(2) var<storage, read_write> base: array<u32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = id.y * params.stride + id.x;
    if id.x < params.stride && i < params.width * params.count {
        let to = at[i / params.width];
        if to < params.capacity {
            base[to * params.width + i % params.width] = rows[i];
        }
    }
}
