// token = one index drawn from `logits` as u says; without a scale, the first of the greatest.
//
// Work split: one workgroup; some passes over the logits, see parts/draw.wgsl.
// Parts: logits4 (logits_aligned, logits_odd), likeliest, draw, among_greatest, threshold.

fn four(i: u32) -> vec4<f32> {
    return logits4(0u, i);
}

@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) lane: u32) {
    let top_k = select(0u, params.top_k, params.top_k < params.n);
    let rules = Rules(params.n, params.scale, top_k, params.top_p, params.min_p);
    let best = likeliest(lane, params.n, select(0.0, params.scale, weighs_all(rules)));
    let index = draw(lane, best, rules, u[0]);
    if lane == 0u {
        token[0] = index;
    }
}
