// 8 codes of 3 bits: three bytes, which may begin in one word and end in the next.

fn code8(row: u32, i: u32) -> mat2x4<f32> {
    let byte = i * 3u;
    let at = row * (params.units * 3u / 4u) + (byte >> 2u);
    let shift = (byte & 3u) * 8u;
    var bits = weight[at] >> shift;
    if shift > 8u {
        bits |= weight[at + 1u] << (32u - shift);
    }
    let w = vec4<u32>(bits);
    return mat2x4<f32>(
        vec4<f32>((w >> vec4<u32>(0u, 3u, 6u, 9u)) & vec4<u32>(7u)),
        vec4<f32>((w >> vec4<u32>(12u, 15u, 18u, 21u)) & vec4<u32>(7u)),
    );
}
