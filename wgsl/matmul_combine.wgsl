// y[m, n] = sum of the parts into which k was split.
//
// Work split: an invocation per output.
// Parts: emit.

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = (group.y * params.stride + group.x) * 256u + lane;
    if at >= params.size {
        return;
    }
    var sum = 0.0;
    for (var part = 0u; part < params.parts; part++) {
        sum += partial_sums[part * params.size + at];
    }
    emit(at / params.n, at % params.n, sum);
}
