// Exchange between LANES neighbours of a workgroup of WG invocations, through workgroup memory. All must call.

var<workgroup> passed: array<vec4<f32>, WG>;

// The value of the lane whose number differs by the bit `distance`.
fn across4(lane: u32, value: vec4<f32>, distance: u32) -> vec4<f32> {
    workgroupBarrier();
    passed[lane] = value;
    workgroupBarrier();
    return passed[lane ^ distance];
}

// What spread4 needs to know of a lane.
fn base_lane(lane: u32) -> u32 {
    return lane & ~(LANES - 1u);
}

// The values of the first, second, third and fourth quarter of the LANES neighbours.
fn spread4(lane: u32, base: u32, value: vec4<f32>) -> mat4x4<f32> {
    workgroupBarrier();
    passed[lane] = value;
    workgroupBarrier();
    let quarter = LANES / 4u;
    return mat4x4<f32>(
        passed[base],
        passed[base + quarter],
        passed[base + 2u * quarter],
        passed[base + 3u * quarter],
    );
}

// Whether an invocation goes a way that others need not go: they must, for all must call.
fn together(holds: bool) -> bool {
    return true;
}

// Whether it may hold for some of the neighbours.
fn any_lane(holds: bool) -> bool {
    return true;
}

// The value of lane `giver`.
fn from_lane(lane: u32, value: u32, giver: u32) -> u32 {
    return bitcast<u32>(from_lane4(lane, vec4<f32>(bitcast<f32>(value)), giver).x);
}

fn from_lane4(lane: u32, value: vec4<f32>, giver: u32) -> vec4<f32> {
    workgroupBarrier();
    passed[lane] = value;
    workgroupBarrier();
    return passed[giver];
}
