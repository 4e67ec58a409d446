// 8 codes of 4 bits: one word.

fn code8(row: u32, i: u32) -> mat2x4<f32> {
    let w = vec4<u32>(weight[row * params.units + i]);
    return mat2x4<f32>(
        vec4<f32>((w >> vec4<u32>(0u, 4u, 8u, 12u)) & vec4<u32>(15u)),
        vec4<f32>((w >> vec4<u32>(16u, 20u, 24u, 28u)) & vec4<u32>(15u)),
    );
}
