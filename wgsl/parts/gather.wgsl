// Sums over `size` neighbouring lanes, a power of two of at least 4: one, two or four at once. All call. By shuffles:
// NVIDIA's compiler makes of subgroupAdd those and besides, never run, a way for lanes that are elsewhere.
enable subgroups;

// With those of the lanes that are `first`, twice that, .. away.
fn sum_from(own: f32, first: u32, size: u32) -> f32 {
    var sum = own;
    for (var distance = first; distance < size; distance *= 2u) {
        sum += subgroupShuffleXor(sum, distance);
    }
    return sum;
}

// All lanes have the sum.
fn sum_lanes(own: f32, size: u32) -> f32 {
    return sum_from(own, 1u, size);
}

// Half of the lanes go on with the first, the others, `distance` away, with the second: each adds what the other has of it.
fn half4(a: vec4<f32>, b: vec4<f32>, distance: u32, at: u32) -> vec4<f32> {
    let second = (at & distance) != 0u;
    return select(a, b, second) + subgroupShuffleXor(select(b, a, second), distance);
}

fn half2(a: vec2<f32>, b: vec2<f32>, distance: u32, at: u32) -> vec2<f32> {
    let second = (at & distance) != 0u;
    return select(a, b, second) + subgroupShuffleXor(select(b, a, second), distance);
}

fn half1(ab: vec2<f32>, distance: u32, at: u32) -> f32 {
    let second = (at & distance) != 0u;
    return select(ab.x, ab.y, second) + subgroupShuffleXor(select(ab.y, ab.x, second), distance);
}

// Even lanes have the first sum, odd ones the second.
fn gather2(own: vec2<f32>, at: u32, size: u32) -> f32 {
    return sum_from(half1(own, 1u, at), 2u, size);
}

// The sum of each of four values; lane `at` has that number which_row(at).
fn gather(own: vec4<f32>, at: u32, size: u32) -> f32 {
    return sum_from(half1(half2(own.xy, own.zw, 1u, at), 2u, at), 4u, size);
}

fn which_row(at: u32) -> u32 {
    return (at & 1u) * 2u + ((at >> 1u) & 1u);
}
