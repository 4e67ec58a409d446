// Scale and bias of an affine weight, one of each per GROUP units of 8 codes. SCALES is the kind of both (see
// floats).

override GROUP: u32 = 8u;
override SCALES: u32 = 0u;

// Which scale: row `row`, unit i of 8 codes.
fn group_of(row: u32, i: u32) -> u32 {
    return row * params.groups + i / GROUP;
}

fn scale_at(row: u32, i: u32) -> f32 {
    let at = group_of(row, i);
    return widen(SCALES, scales[place(SCALES, at)], at);
}

fn offset_at(row: u32, i: u32) -> f32 {
    let at = group_of(row, i);
    return widen(SCALES, biases[place(SCALES, at)], at);
}

// Scale and bias of a group, still in their words: nothing waits for them before they are used.
struct OfGroup { scale: u32, offset: u32, group: u32 }

// Those of chunk c.
fn of_group(row: u32, c: u32) -> OfGroup {
    let group = group_of(row, 4u * c);
    let at = place(SCALES, group);
    return OfGroup(scales[at], biases[at], group);
}
