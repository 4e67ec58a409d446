// 8 codes of 5 bits: five bytes of two words; the seventh code ends in the upper 8 of these 40 bits.

fn code8(row: u32, i: u32) -> mat2x4<f32> {
    let byte = i * 5u;
    let at = row * (params.units * 5u / 4u) + (byte >> 2u);
    let shift = (byte & 3u) * 8u;
    let next = weight[at + 1u];
    // A shift by 32 would count as one by 0, hence in two steps.
    let low = (weight[at] >> shift) | ((next << (31u - shift)) << 1u);
    let high = next >> shift;
    let w = vec4<u32>(low);
    return mat2x4<f32>(
        vec4<f32>((w >> vec4<u32>(0u, 5u, 10u, 15u)) & vec4<u32>(31u)),
        vec4<f32>(vec4<u32>(low >> 20u, low >> 25u, (low >> 30u) | (high << 2u), high >> 3u) & vec4<u32>(31u)),
    );
}
