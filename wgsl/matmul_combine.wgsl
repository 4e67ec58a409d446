// y[m, n] = sum of the parts into which k was split; of gated pairs, a column and its partner meet here.
//
// Work split: an invocation per output.
// Generated (ops/matmul.rs): finish, which hands `sum_at` of one column or of two to emit.

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = (group.y * params.stride + group.x) * 256u + lane;
    if at < params.m * params.n {
        finish(at / params.n, at % params.n);
    }
}

fn sum_at(m: u32, n: u32) -> f32 {
    var sum = 0.0;
    for (var part = 0u; part < params.parts; part++) {
        sum += partial_sums[(part * params.m + m) * params.columns + n];
    }
    return sum;
}
