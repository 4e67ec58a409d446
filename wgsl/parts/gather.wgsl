// Four sums over `size` neighbouring lanes at once, a power of two of at least 4.
enable subgroups;

// The sum of each of four values; lane `at` has that number which_row(at).
fn gather(own: vec4<f32>, at: u32, size: u32) -> f32 {
    let odd = (at & 1u) == 1u;
    let two = select(own.xy, own.zw, odd) + subgroupShuffleXor(select(own.zw, own.xy, odd), 1u);
    let upper = (at & 2u) == 2u;
    var one = select(two.x, two.y, upper) + subgroupShuffleXor(select(two.y, two.x, upper), 2u);
    for (var distance = 4u; distance < size; distance *= 2u) {
        one += subgroupShuffleXor(one, distance);
    }
    return one;
}

fn which_row(at: u32) -> u32 {
    return (at & 1u) * 2u + ((at >> 1u) & 1u);
}
