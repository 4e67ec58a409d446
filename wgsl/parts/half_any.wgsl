// A weight of any format on its way into workgroup memory as f16. Needs weight8.

struct Raw { low: vec4<f16>, high: vec4<f16> }

const LOAD: u32 = 8u;
const LIFT: f32 = 1.0;

fn fetch(row: u32, k: u32) -> Raw {
    let values = weight8(row, k / 8u);
    let most = max(abs(values[0]), abs(values[1]));
    peak = max(peak, max(max(most.x, most.y), max(most.z, most.w)));
    return Raw(vec4<f16>(values[0]), vec4<f16>(values[1]));
}

fn keep(at: u32, raw: Raw) {
    put_w(at, raw.low);
    put_w(at + 4u, raw.high);
}

fn wide8(row: u32, i: u32) -> mat2x4<f32> {
    return weight8(row, i);
}
