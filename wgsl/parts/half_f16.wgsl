// A weight of f16 on its way into workgroup memory as it is; rows are whole units of 8.

const GRANULE: u32 = 1u;
alias Raw = Halves;

fn fetch8(row: u32, i: u32) -> Raw {
    let at = (row * params.units + i) * 2u;
    return Halves(weight[at], weight[at + 1u]);
}

fn keep8(at: u32, raw: Raw) {
    put_w(at, raw);
}

fn wide8(row: u32, i: u32) -> mat2x4<f32> {
    let values = fetch8(row, i);
    return mat2x4<f32>(vec4<f32>(values.low), vec4<f32>(values.high));
}
