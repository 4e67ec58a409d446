// A weight of f16 on its way into workgroup memory as it is; rows are whole units of 8. Needs narrow.

const LOAD: u32 = 8u;
const LIFT: f32 = 1.0;
alias Raw = vec4<u32>;

fn fetch(row: u32, k: u32) -> Raw {
    return weight[row * params.units + k / 8u];
}

fn keep(at: u32, raw: Raw) {
    put_w(at, narrow(raw.xy));
    put_w(at + 4u, narrow(raw.zw));
}

fn wide8(row: u32, i: u32) -> mat2x4<f32> {
    let raw = fetch(row, 8u * i);
    return mat2x4<f32>(vec4<f32>(narrow(raw.xy)), vec4<f32>(narrow(raw.zw)));
}
