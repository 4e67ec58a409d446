// Where the parts of a workgroup of attend_packed meet, LANES invocations of which cover a head.

// Vectors of 4 values that meet: 8 values of each invocation, or the rows that are made ready. There is little
// of it, so that many workgroups are resident.
override MEETING: u32 = 256u;

var<workgroup> meeting: array<vec4<f32>, MEETING>;

// A head that one part made ready for all.
fn made_ready(row: u32, c: u32) -> mat2x4<f32> {
    return mat2x4<f32>(meeting[2u * (row * LANES + c)], meeting[2u * (row * LANES + c) + 1u]);
}

// Adds up what the parts found for one query head.
fn settle(lane: u32, to: u32, own: mat2x4<f32>) {
    workgroupBarrier();
    meeting[2u * lane] = own[0];
    meeting[2u * lane + 1u] = own[1];
    workgroupBarrier();
    if lane < 2u * params.eights {
        var sum = meeting[lane];
        for (var i = 1u; i < WG / LANES; i++) {
            sum += meeting[2u * i * LANES + lane];
        }
        out[to * 2u * params.eights + lane] = sum;
    }
}
