// The rotation of packed heads, but for its signs: a normalised Walsh-Hadamard transform of the greatest power of
// two that divides d, block by block. `values` holds two heads of up to 256 values, one after the other.

override WG: u32 = 128u;

var<workgroup> values: array<f32, 512>;

// All call; afterwards `values` is transformed, but for the factor.
fn walsh(lane: u32, size: u32, d: u32) {
    let block = d & (~d + 1u);
    for (var half = 1u; half < block; half *= 2u) {
        workgroupBarrier();
        for (var i = lane; i < size / 2u; i += WG) {
            // The half is a power of two.
            let at = i + (i & ~(half - 1u));
            let a = values[at];
            let b = values[at + half];
            values[at] = a + b;
            values[at + half] = a - b;
        }
    }
    workgroupBarrier();
}
