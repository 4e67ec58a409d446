// Sums and maxima over a workgroup of WG invocations: within subgroups first, then over their results. Every
// invocation gets the result; all must call. Subgroups are taken to be full and in order of invocations.
enable subgroups;

var<workgroup> partial: array<vec4<f32>, WG>;

fn sum4(lane: u32, value: vec4<f32>) -> vec4<f32> {
    let size = subgroupAdd(1u);
    let own = subgroupAdd(value);
    workgroupBarrier();
    if lane % size == 0u {
        partial[lane / size] = own;
    }
    workgroupBarrier();
    var total = partial[0];
    for (var i = 1u; i < WG / size; i++) {
        total += partial[i];
    }
    return total;
}

fn max4(lane: u32, value: vec4<f32>) -> vec4<f32> {
    let size = subgroupAdd(1u);
    let own = subgroupMax(value);
    workgroupBarrier();
    if lane % size == 0u {
        partial[lane / size] = own;
    }
    workgroupBarrier();
    var greatest = partial[0];
    for (var i = 1u; i < WG / size; i++) {
        greatest = max(greatest, partial[i]);
    }
    return greatest;
}
