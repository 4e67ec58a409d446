// An affine weight, scale * code + bias (scales). Sums over codes are scaled once:
// sum x (s q + b) = s sum x q + b sum x.

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
