// Exchange between LANES neighbours of a workgroup of WG invocations, within subgroups. All must call. Subgroups
// are taken to be full, in order of invocations, and of a multiple of LANES.
enable subgroups;
diagnostic(off, subgroup_uniformity);

// The value of the lane whose number differs by the bit `distance`.
fn across4(lane: u32, value: vec4<f32>, distance: u32) -> vec4<f32> {
    return subgroupShuffleXor(value, distance);
}

// What spread4 needs to know of a lane.
fn base_lane(lane: u32) -> u32 {
    return lane & (subgroupAdd(1u) - LANES);
}

// The values of the first, second, third and fourth quarter of the LANES neighbours.
fn spread4(lane: u32, base: u32, value: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        subgroupShuffle(value, base),
        subgroupShuffle(value, base + LANES / 4u),
        subgroupShuffle(value, base + LANES / 2u),
        subgroupShuffle(value, base + 3u * LANES / 4u),
    );
}

// Whether an invocation goes a way that others need not go: if it holds for one of its subgroup. NVIDIA's compiler sees by
// the vote that they stay together; else it prepares every exchange for lanes that are elsewhere.
fn together(holds: bool) -> bool {
    return subgroupAny(holds);
}

// Whether it may hold for some of the neighbours.
fn any_lane(holds: bool) -> bool {
    return subgroupAny(holds);
}

// The value of lane `giver` of the same subgroup.
fn from_lane(lane: u32, value: u32, giver: u32) -> u32 {
    return subgroupShuffle(value, giver & 31u);
}

fn from_lane4(lane: u32, value: vec4<f32>, giver: u32) -> vec4<f32> {
    return subgroupShuffle(value, giver & 31u);
}
