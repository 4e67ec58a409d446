// Each row's next token, chosen and appended: the greatest of its logits, or one drawn (parts/draw.wgsl) with
// the number of (seed, step); logits of tokens seen before are first lowered by the penalty. The sequence's
// token, place, step and set of tokens seen move on.
//
// Work split: one workgroup per row; one pass over the logits if the greatest is taken, else a second over parts of them.
// NVIDIA H200, 128256 logits a row, 1 to 8 rows (`unimlx bench --profile --temp 0.15 --top-p 0.9`): the greatest in 12 us,
// one drawn by temperature alone in 26, of those that top-k or top-p keep in 31 to 37, that min-p keeps in 38, in 121 where
// top-p keeps more than some hundred.
// Parts: logits4 (logits_aligned, logits_odd), likeliest, draw, among_greatest, threshold, philox.

var<private> row: u32;
// Of the set of tokens seen, the row's first word.
var<private> first_seen: u32;
var<private> penalty: f32;
var<private> inverse_penalty: f32;

fn four(i: u32) -> vec4<f32> {
    let x = logits4(row, i);
    if penalty == 1.0 {
        return x;
    }
    let bits = vec4<u32>(seen[first_seen + i / 8u] >> (4u * (i % 8u))) & vec4<u32>(1u, 2u, 4u, 8u);
    let lowered = select(x * penalty, x * inverse_penalty, x > vec4<f32>(0.0));
    return select(x, lowered, (bits != vec4<u32>(0u)) & (x > vec4<f32>(-1.0e38)));
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = group.x;
    row = at;
    let slot = counts[4u * at];
    let most = counts[4u * at + 1u];
    let top_k = select(0u, most, most < params.n);
    let scale = knobs[5u * at];
    penalty = knobs[5u * at + 3u];
    inverse_penalty = knobs[5u * at + 4u];
    first_seen = slot * params.words;

    let rules = Rules(params.n, scale, top_k, knobs[5u * at + 1u], knobs[5u * at + 2u]);
    let best = likeliest(lane, params.n, select(0.0, scale, weighs_all(rules)));
    var index = best.index;
    if scale > 0.0 {
        let seed = vec2<u32>(counts[4u * at + 2u], counts[4u * at + 3u]);
        let u = uniform_number(seed, steps[row]);
        index = draw(lane, best, rules, u);
    }
    if lane == 0u {
        token[row] = index;
        ids[row] = min(index, params.n - 1u);
        places[2u * row] += 1u;
        steps[row] += 1u;
        if index != NONE {
            seen[first_seen + index / 32u] |= 1u << (index % 32u);
        }
    }
}
