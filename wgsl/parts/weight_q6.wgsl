// 8 codes of 6 bits: six bytes of two words; the sixth code ends in the upper 16 of these 48 bits.

fn code8(row: u32, i: u32) -> mat2x4<f32> {
    let byte = i * 6u;
    let at = row * (params.units * 3u / 2u) + (byte >> 2u);
    let shift = (byte & 3u) * 8u;
    let next = weight[at + 1u];
    // A shift by 32 would count as one by 0, hence in two steps.
    let low = (weight[at] >> shift) | ((next << (31u - shift)) << 1u);
    let high = next >> shift;
    let w = vec4<u32>(low);
    return mat2x4<f32>(
        vec4<f32>((w >> vec4<u32>(0u, 6u, 12u, 18u)) & vec4<u32>(63u)),
        vec4<f32>(vec4<u32>(low >> 24u, (low >> 30u) | (high << 2u), high >> 4u, high >> 10u) & vec4<u32>(63u)),
    );
}
