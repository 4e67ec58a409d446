// Gains of the norms of query and key heads, of kinds Q_GAIN and K_GAIN (see floats): 8 values from 8 c on.

override Q_GAIN: u32 = 0u;
override K_GAIN: u32 = 0u;

fn q_gain1(i: u32) -> f32 {
    return widen(Q_GAIN, q_gain[place(Q_GAIN, i)], i);
}

fn k_gain1(i: u32) -> f32 {
    return widen(K_GAIN, k_gain[place(K_GAIN, i)], i);
}

fn q_gain8(c: u32) -> mat2x4<f32> {
    let i = 8u * min(c, params.eights - 1u);
    return mat2x4<f32>(
        vec4<f32>(q_gain1(i), q_gain1(i + 1u), q_gain1(i + 2u), q_gain1(i + 3u)),
        vec4<f32>(q_gain1(i + 4u), q_gain1(i + 5u), q_gain1(i + 6u), q_gain1(i + 7u)),
    );
}

fn k_gain8(c: u32) -> mat2x4<f32> {
    let i = 8u * min(c, params.eights - 1u);
    return mat2x4<f32>(
        vec4<f32>(k_gain1(i), k_gain1(i + 1u), k_gain1(i + 2u), k_gain1(i + 3u)),
        vec4<f32>(k_gain1(i + 4u), k_gain1(i + 5u), k_gain1(i + 6u), k_gain1(i + 7u)),
    );
}
