// Where the parts of a workgroup of WG invocations meet, LANES of which cover a head.

// Vectors of 4 values that meet: 8 values of each invocation for two heads, or the rows that are made ready. There is
// little of it, so that several workgroups are resident.
override MEETING: u32 = 512u;

override PARTS: u32 = WG / LANES;

var<workgroup> meeting: array<vec4<f32>, MEETING>;
// Of each part and head.
var<workgroup> maxima: array<f32, 64>;
var<workgroup> totals: array<f32, 64>;

// A head that one part made ready for all.
fn made_ready(row: u32, c: u32) -> mat2x4<f32> {
    return mat2x4<f32>(meeting[2u * (row * LANES + c)], meeting[2u * (row * LANES + c) + 1u]);
}

// What weights are relative to, and their sums.
fn set_edges(part: u32, greatest: vec4<f32>, total: vec4<f32>) {
    for (var i = 0u; i < HEADS; i++) {
        maxima[4u * part + i] = greatest[i];
        totals[4u * part + i] = total[i];
    }
}

fn meet(slot: u32, part: u32, c: u32, own: mat2x4<f32>) {
    let at = 2u * ((slot * PARTS + part) * LANES + c);
    meeting[at] = own[0];
    meeting[at + 1u] = own[1];
}

// Adds up what the parts found of vector v of a head. With several splits the edges follow all sums.
fn settle(slot: u32, head: u32, v: u32, row: u32, split: u32, splits: u32) {
    var all = maxima[head];
    for (var i = 1u; i < PARTS; i++) {
        all = max(all, maxima[4u * i + head]);
    }
    var sum = vec4<f32>(0.0);
    var total = 0.0;
    for (var i = 0u; i < PARTS; i++) {
        let weight = exp(maxima[4u * i + head] - all);
        total += weight * totals[4u * i + head];
        sum += weight * meeting[2u * (slot * PARTS + i) * LANES + v];
    }
    let to = (row + head) * splits + split;
    if splits == 1u {
        out[to * 2u * params.eights + v] = sum / total;
        return;
    }
    out[to * 2u * params.eights + v] = sum;
    if v == 0u {
        let edges = TOKENS * params.heads * splits * 2u * params.eights;
        out[edges + to] = vec4<f32>(all, total, 0.0, 0.0);
    }
}
