// An affine weight, scale * code + bias with one scale and bias per GROUP units of 8 codes. Sums over codes
// are scaled once: sum x (s q + b) = s sum x q + b sum x. SCALES is the kind of both (see floats).

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

fn scaled(dots: vec4<f32>, sum: f32, row: vec4<u32>, i: u32) -> vec4<f32> {
    let scale = vec4<f32>(scale_at(row.x, i), scale_at(row.y, i), scale_at(row.z, i), scale_at(row.w, i));
    let offset = vec4<f32>(offset_at(row.x, i), offset_at(row.y, i), offset_at(row.z, i), offset_at(row.w, i));
    return scale * dots + offset * sum;
}

fn weight8(row: u32, i: u32) -> mat2x4<f32> {
    let code = code8(row, i);
    let scale = scale_at(row, i);
    let offset = vec4<f32>(offset_at(row, i));
    return mat2x4<f32>(scale * code[0] + offset, scale * code[1] + offset);
}
