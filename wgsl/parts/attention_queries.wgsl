// A lane's row of attention_coop: which one it is, and how its query becomes f16.

// The lane's row among all rows of the key head.
fn own_row() -> u32 {
    return row_of(first_row + subgroup * ROWS + lane / SHARE);
}

fn is_row() -> bool {
    return first_row + subgroup * ROWS + lane / SHARE == own_row();
}

fn own_place() -> u32 {
    return place_of(key_head, own_row()) / 4u;
}

// How a query row becomes f16, and its products scores in powers of two.
fn scale_row() {
    let begin = own_place();
    var most = vec4<f32>(0.0);
    for (var i = lane % SHARE; i < D / 4u; i += SHARE) {
        most = max(most, abs(q[begin + i]));
    }
    var greatest = max(max(most.x, most.y), max(most.z, most.w));
    for (var distance = 1u; distance < SHARE; distance *= 2u) {
        greatest = max(greatest, subgroupShuffleXor(greatest, distance));
    }
    let exponent = clamp(bitcast<u32>(greatest) >> 23u, 107u, 167u);
    factor = params.scale * LOG2_E * bitcast<f32>((exponent - 13u) << 23u);
    decay = bitcast<f32>((267u - exponent) << 23u);
}

// Columns first .. first + COLUMNS of the subgroup's queries, as f16, where weights lie later.
fn stage_queries(first: u32) {
    let begin = own_place();
    subgroupBarrier();
    for (var i = lane % SHARE; i < COLUMNS / 4u; i += SHARE) {
        if first / 4u + i < D / 4u {
            put_weights(own_weights() + 4u * i, vec4<f16>(decay * q[begin + first / 4u + i]));
        }
    }
    subgroupBarrier();
}
