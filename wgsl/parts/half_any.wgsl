// A weight of any format on its way into workgroup memory as f16. Needs weight8.

const GRANULE: u32 = 1u;
alias Raw = Halves;

fn fetch8(row: u32, i: u32) -> Raw {
    let values = weight8(row, i);
    let most = max(abs(values[0]), abs(values[1]));
    peak = max(peak, max(max(most.x, most.y), max(most.z, most.w)));
    return Halves(vec4<f16>(values[0]), vec4<f16>(values[1]));
}

fn keep8(at: u32, raw: Raw) {
    put_w(at, raw);
}

fn wide8(row: u32, i: u32) -> mat2x4<f32> {
    return weight8(row, i);
}
