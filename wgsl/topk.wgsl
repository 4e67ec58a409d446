// out[r, 0 .. k] = the k greatest of x[r, 0 .. n], descending.
//
// Work split: one workgroup of 64 per row. Equal values are told apart by their index, so each round takes
// the greatest (value, -index) below the one before: k rounds over the row. For small k; the fallback of
// sampling, which has its own kernel.

struct Params { n: u32, k: u32, rows: u32, stride: u32 }
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

const NONE: u32 = 0xffffffffu;

var<workgroup> best: array<f32, 64>;
var<workgroup> place: array<u32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = min(group.y * params.stride + group.x, params.rows - 1u);
    var last = 0.0;
    var last_at = 0u;
    for (var round = 0u; round < params.k; round++) {
        var value = 0.0;
        var at = NONE;
        for (var i = lane; i < params.n; i += 64u) {
            let v = x[row * params.n + i];
            let below = round == 0u || v < last || (v == last && i > last_at);
            if below && (at == NONE || v > value) {
                value = v;
                at = i;
            }
        }
        best[lane] = value;
        place[lane] = at;
        for (var half = 32u; half > 0u; half /= 2u) {
            workgroupBarrier();
            if lane < half {
                let other = place[lane + half];
                let v = best[lane + half];
                let mine = place[lane];
                let better = v > best[lane] || (v == best[lane] && other < mine);
                if other != NONE && (mine == NONE || better) {
                    best[lane] = v;
                    place[lane] = other;
                }
            }
        }
        workgroupBarrier();
        last = best[0];
        last_at = place[0];
        workgroupBarrier();
        if lane == 0u {
            out[row * params.k + round] = last;
        }
    }
}
