// x[i] <- x[i] + 1: next to nothing, so that what a dispatch costs by itself shows.
//
// One workgroup.

override WG: u32 = 64;

@group(0) @binding(0) var<storage, read_write> x: array<u32>;

@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) i: u32) {
    x[i] += 1u;
}
