// A weight of bf16 on its way into workgroup memory as f16, which holds all of it between 2^-17 and 65504;
// rows are whole units of 8.

const LOAD: u32 = 8u;
const LIFT: f32 = 1.0;
alias Raw = vec4<u32>;

fn fetch(row: u32, k: u32) -> Raw {
    return weight[row * params.units + k / 8u];
}

fn widened(w: Raw) -> mat2x4<f32> {
    let low = bitcast<vec4<f32>>(w << vec4<u32>(16u));
    let high = bitcast<vec4<f32>>(w & vec4<u32>(0xffff0000u));
    return mat2x4<f32>(vec4<f32>(low.x, high.x, low.y, high.y), vec4<f32>(low.z, high.z, low.w, high.w));
}

fn keep(at: u32, raw: Raw) {
    let values = widened(raw);
    let most = max(abs(values[0]), abs(values[1]));
    peak = max(peak, max(max(most.x, most.y), max(most.z, most.w)));
    put_w(at, vec4<f16>(values[0]));
    put_w(at + 4u, vec4<f16>(values[1]));
}

fn wide8(row: u32, i: u32) -> mat2x4<f32> {
    return widened(fetch(row, 8u * i));
}
