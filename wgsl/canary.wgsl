// y[i] = sum over j < n of (j + 1) x[(i + 7 j) mod n], in wrapping u32; n = WG.
//
// One workgroup, one output per invocation, the inputs staged in workgroup memory. Run once on a device
// that was opened in an unusual way, and compared with the same sum on the CPU: bindings at an offset,
// vector loads, indices known at run time, barriers and loops must all work.

override WG: u32 = 64;

struct Params { n: u32, step: u32 }

@group(0) @binding(0) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@group(0) @binding(2) var<uniform> params: Params;

var<workgroup> staged: array<u32, WG>;

@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) i: u32) {
    staged[i] = x[i / 4u][i % 4u];
    workgroupBarrier();
    var sum = 0u;
    for (var j = 0u; j < params.n; j++) {
        sum += (j + 1u) * staged[(i + j * params.step) % params.n];
    }
    y[i] = sum;
}
