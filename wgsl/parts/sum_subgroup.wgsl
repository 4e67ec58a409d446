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

// The sum of first values and the greatest of second ones.
fn sum_and_max(lane: u32, value: vec2<f32>) -> vec2<f32> {
    let size = subgroupAdd(1u);
    let own = vec2<f32>(subgroupAdd(value.x), subgroupMax(value.y));
    workgroupBarrier();
    if lane % size == 0u {
        partial[lane / size] = vec4<f32>(own, 0.0, 0.0);
    }
    workgroupBarrier();
    // Each subgroup puts all results together.
    var total = vec2<f32>(0.0, partial[0].y);
    let count = WG / size;
    for (var first = 0u; first < count; first += size) {
        let i = first + lane % size;
        let one = partial[min(i, count - 1u)].xy;
        total = vec2<f32>(total.x + select(0.0, one.x, i < count), max(total.y, one.y));
    }
    return vec2<f32>(subgroupAdd(total.x), subgroupMax(total.y));
}
