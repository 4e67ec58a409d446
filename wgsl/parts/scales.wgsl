// Scale and bias of an affine weight, one of each per GROUP units of 8 codes. SCALES is the kind of both (see
// floats).

override GROUP: u32 = 8u;
override SCALES: u32 = 0u;

fn scale_at(row: u32, i: u32) -> f32 {
    let at = row * params.groups + i / GROUP;
    return widen(SCALES, scales[place(SCALES, at)], at);
}

fn offset_at(row: u32, i: u32) -> f32 {
    let at = row * params.groups + i / GROUP;
    return widen(SCALES, biases[place(SCALES, at)], at);
}
