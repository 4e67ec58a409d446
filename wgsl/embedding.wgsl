// y[t, k] = W[ids[t], k]; an id past the end gives zeros.
//
// Work split: one invocation per 8 values. A weight larger than a binding comes in chunks of rows, one
// dispatch each: ids of other chunks are skipped, and the first chunk also writes the zeros.
// Parts: weight8 (weight_*, dense or affine), widen (floats). Bindings are declared by the op: they differ
// with the weight's format.

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let index = (group.y * params.stride + group.x) * 64u + lane;
    if index >= params.tokens * params.units {
        return;
    }
    let t = index / params.units;
    let i = index % params.units;
    let id = ids[t];
    let missing = id >= params.n;
    let here = id >= params.first_row && id - params.first_row < params.rows;
    if !(here || (missing && params.first_row == 0u)) {
        return;
    }
    var values = mat2x4<f32>(vec4<f32>(0.0), vec4<f32>(0.0));
    if !missing {
        values = weight8(id - params.first_row, i);
    }
    let at = t * params.k + i * 8u;
    let left = params.k - i * 8u;
    y[at] = values[0].x;
    if left > 1u { y[at + 1u] = values[0].y; }
    if left > 2u { y[at + 2u] = values[0].z; }
    if left > 3u { y[at + 3u] = values[0].w; }
    if left > 4u { y[at + 4u] = values[1].x; }
    if left > 5u { y[at + 5u] = values[1].y; }
    if left > 6u { y[at + 6u] = values[1].z; }
    if left > 7u { y[at + 7u] = values[1].w; }
}
