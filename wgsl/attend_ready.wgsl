// What stands before the attention of many tokens: query and key heads are normed (where a model does that) and
// rotated; queries are laid out by themselves, keys and values go into the cache.
//
// Work split: workgroup (128 / LANES heads, token). LANES neighbours of its 128 invocations cover a head, 8 values
// each; query heads come first, then key heads, then values.
// Parts: key8 and its like (cache8_*); row_at (pages); across4 (lanes_*); row_of, inverse_rms, turn8, turned (heads8);
// q_gain8, k_gain8 (head_gains, no_head_gains); cos_sin_of_place (angle). Bindings and q4, k4, v4 are generated, for
// queries, keys and values may be one array.

override LANES: u32 = 16u;
override HEADS: u32 = 1u;
const WG: u32 = 128u;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let t = group.y;
    let here = places[t];
    for (var i = lane; i < params.half; i += WG) {
        angles[i] = params.rope_scale * cos_sin_of_place(f32(here.x) * inv_freq[i]);
    }
    workgroupBarrier();

    let c = lane % LANES;
    let all = params.heads + 2u * params.kv_heads;
    let row = min(group.x * (WG / LANES) + lane / LANES, all - 1u);
    let is_query = row < params.heads;
    let is_key = !is_query && row < params.heads + params.kv_heads;
    let h = select(row - params.heads, row - params.heads - params.kv_heads, !is_key);
    let raw = row_of(select(select(HEADS + 1u, HEADS, is_key), 0u, is_query), t, h, row, c);
    let inverse = inverse_rms(lane, raw.own);
    if c >= params.eights {
        return;
    }
    let turn = turn8(0u, c);
    if is_query {
        let ready = inverse * turned(raw, gains(q_gain8(c), q_gain8(other_of(c))), turn);
        let at = 2u * ((t * params.heads + row) * params.eights + c);
        out[at] = ready[0];
        out[at + 1u] = ready[1];
        return;
    }
    let at = (row_at(here.x + here.y) * params.kv_heads + h) * params.eights + c;
    if is_key {
        let ready = inverse * turned(raw, gains(k_gain8(c), k_gain8(other_of(c))), turn);
        set_key8(at, round8(ready));
    } else {
        set_value8(at, round8(raw.own));
    }
}
