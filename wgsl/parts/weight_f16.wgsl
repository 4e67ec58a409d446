// 8 values of row `row` from k = 8 i on, f16 in one load of 16 bytes; rows are whole units of 8.

alias Raw8 = vec4<u32>;

fn raw8(row: u32, i: u32) -> Raw8 {
    return weight[row * params.units + i];
}

fn unpack8(w: Raw8) -> mat2x4<f32> {
    return mat2x4<f32>(
        vec4<f32>(unpack2x16float(w.x), unpack2x16float(w.y)),
        vec4<f32>(unpack2x16float(w.z), unpack2x16float(w.w)),
    );
}

fn code8(row: u32, i: u32) -> mat2x4<f32> {
    return unpack8(raw8(row, i));
}
