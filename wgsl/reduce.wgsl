// out[o] = finish(o, fold over j < params.n of element(o, j)), both generated expressions of the inputs.
//
// Work split: one workgroup of 64 per output element; invocations stride over j, then fold in workgroup
// memory. `element`, `fold`, `finish` and the alias `Value` are generated.

var<workgroup> partial: array<Value, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let o = min(group.y * params.stride + group.x, params.outputs - 1u);
    var total = params_first();
    for (var j = lane; j < params.n; j += 64u) {
        total = fold(total, element(o, j));
    }
    partial[lane] = total;
    for (var half = 32u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half {
            partial[lane] = fold(partial[lane], partial[lane + half]);
        }
    }
    if lane == 0u {
        out[o] = finish(o, partial[0]);
    }
}
