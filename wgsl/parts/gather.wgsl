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

// Even lanes have the first sum, odd ones the second.
fn gather2(own: vec2<f32>, at: u32, size: u32) -> f32 {
    let odd = (at & 1u) == 1u;
    return sum_from(select(own.x, own.y, odd) + subgroupShuffleXor(select(own.y, own.x, odd), 1u), 2u, size);
}

// The sum of each of four values; lane `at` has that number which_row(at).
fn gather(own: vec4<f32>, at: u32, size: u32) -> f32 {
    let odd = (at & 1u) == 1u;
    let two = select(own.xy, own.zw, odd) + subgroupShuffleXor(select(own.zw, own.xy, odd), 1u);
    let upper = (at & 2u) == 2u;
    return sum_from(select(two.x, two.y, upper) + subgroupShuffleXor(select(two.y, two.x, upper), 2u), 4u, size);
}

fn which_row(at: u32) -> u32 {
    return (at & 1u) * 2u + ((at >> 1u) & 1u);
}
