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
    if GAIN == 0u || params.k % 8u != 0u {
        return mat2x4<f32>(
            vec4<f32>(gain1(k), gain1(k + 1u), gain1(k + 2u), gain1(k + 3u)),
            vec4<f32>(gain1(k + 4u), gain1(k + 5u), gain1(k + 6u), gain1(k + 7u)),
        );
    }
    let w = vec4<u32>(gain[4u * i], gain[4u * i + 1u], gain[4u * i + 2u], gain[4u * i + 3u]);
    if GAIN == 1u {
        return mat2x4<f32>(
            vec4<f32>(unpack2x16float(w.x), unpack2x16float(w.y)),
            vec4<f32>(unpack2x16float(w.z), unpack2x16float(w.w)),
        );
    }
    let low = bitcast<vec4<f32>>(w << vec4<u32>(16u));
    let high = bitcast<vec4<f32>>(w & vec4<u32>(0xffff0000u));
    return mat2x4<f32>(vec4<f32>(low.x, high.x, low.y, high.y), vec4<f32>(low.z, high.z, low.w, high.w));
}
