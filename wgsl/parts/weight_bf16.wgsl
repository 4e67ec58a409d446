// 8 values of row `row` from k = 8 i on, bf16 in one load of 16 bytes; rows are whole units of 8.

alias Raw8 = vec4<u32>;

fn raw8(row: u32, i: u32) -> Raw8 {
    return weight[row * params.units + i];
}

fn unpack8(w: Raw8) -> mat2x4<f32> {
    let low = bitcast<vec4<f32>>(w << vec4<u32>(16u));
    let high = bitcast<vec4<f32>>(w & vec4<u32>(0xffff0000u));
    return mat2x4<f32>(vec4<f32>(low.x, high.x, low.y, high.y), vec4<f32>(low.z, high.z, low.w, high.w));
}

fn code8(row: u32, i: u32) -> mat2x4<f32> {
    return unpack8(raw8(row, i));
}
