// What becomes of the sums of attention_coop where several workgroups share the keys: attention_combine adds them,
// with the maximum to which they are relative and the sum of their weights.

fn own_part() -> u32 {
    return (4u * own_place() / D * part.y + part.x) * (D + 2u);
}

fn deliver(column: u32, sums: vec4<f32>) {
    let at = own_part() + column;
    partials[at] = sums.x;
    partials[at + 1u] = sums.y;
    partials[at + 2u] = sums.z;
    partials[at + 3u] = sums.w;
}

fn deliver_weight() {
    if is_row() && lane % SHARE == 0u {
        partials[own_part() + D] = reference / LOG2_E;
        partials[own_part() + D + 1u] = total;
    }
}
