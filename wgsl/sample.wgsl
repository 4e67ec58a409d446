// token = one index drawn from `logits` as u says; without a scale, the first of the greatest.
//
// Work split: one workgroup; some passes over the logits, see parts/draw.wgsl.
// Parts: logits4 (logits_aligned, logits_odd), likeliest, draw, threshold.

fn four(i: u32) -> vec4<f32> {
    return logits4(0u, i);
}

@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) lane: u32) {
    let best = likeliest(lane, params.n, params.top_k > 0u);
    let f = Filter(params.n, params.scale, best.value, params.min_p, 0u);
    let index = draw(lane, best, f, params.top_k, params.top_p, u[0]);
    if lane == 0u {
        token[0] = index;
    }
}
