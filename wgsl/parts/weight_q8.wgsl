// 8 codes of 8 bits: two words.

fn code8(row: u32, i: u32) -> mat2x4<f32> {
    let at = (row * params.units + i) * 2u;
    let shifts = vec4<u32>(0u, 8u, 16u, 24u);
    return mat2x4<f32>(
        vec4<f32>((vec4<u32>(weight[at]) >> shifts) & vec4<u32>(255u)),
        vec4<f32>((vec4<u32>(weight[at + 1u]) >> shifts) & vec4<u32>(255u)),
    );
}
