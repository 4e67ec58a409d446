// out[i] = value(i), a generated expression of the inputs.
//
// Work split: one invocation per 32-bit word of the output, 256 per workgroup, rows of `stride` words along
// x when the grid needs two dimensions. `store(i)` and `value(i)` are generated.

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = id.y * params.stride + id.x;
    if id.x < params.stride && i < params.words {
        store(i);
    }
}
