// 8 codes of 2 bits: half a word.

fn code8(row: u32, i: u32) -> mat2x4<f32> {
    let w = vec4<u32>(weight[row * (params.units >> 1u) + (i >> 1u)] >> ((i & 1u) * 16u));
    return mat2x4<f32>(
        vec4<f32>((w >> vec4<u32>(0u, 2u, 4u, 6u)) & vec4<u32>(3u)),
        vec4<f32>((w >> vec4<u32>(8u, 10u, 12u, 14u)) & vec4<u32>(3u)),
    );
}
