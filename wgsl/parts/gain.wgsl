// The gain of an RMS norm, of kind GAIN (see floats): 8 values from k = 8 i on, zeros past the end.

override GAIN: u32 = 0u;

fn gain1(k: u32) -> f32 {
    if k < params.k {
        return widen(GAIN, gain[place(GAIN, k)], k);
    }
    return 0.0;
}

fn gain8(i: u32) -> mat2x4<f32> {
    let k = i * 8u;
    return mat2x4<f32>(
        vec4<f32>(gain1(k), gain1(k + 1u), gain1(k + 2u), gain1(k + 3u)),
        vec4<f32>(gain1(k + 4u), gain1(k + 5u), gain1(k + 6u), gain1(k + 7u)),
    );
}
