// h[m, k] = f16(x[m, k] / scale[m]), scale[m] a power of two that brings the row's largest value to between
// 2^13 and 2^14: nothing overflows, and what is a millionth of it keeps all its bits. Zeros fill rows and
// columns up to whole tiles. With PLANES == 2, what rounding took away follows each row as a second one.
//
// Work split: a workgroup of WG makes a row, its invocations stride over units of 8.
// Parts: x8 (x_aligned, x_odd), max4 (sum_shared, sum_subgroup).
enable f16;

override WG: u32 = 256u;
override PLANES: u32 = 1u;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let m = min(group.x, params.m - 1u);
    let inside = group.x < params.m;
    var most = vec4<f32>(0.0);
    for (var i = lane; i < params.units; i += WG) {
        let values = x8(m, i);
        most = max(most, max(abs(values[0]), abs(values[1])));
    }
    most = max4(lane, most);
    let exponent = bitcast<u32>(max(max(most.x, most.y), max(most.z, most.w))) >> 23u;
    let shift = clamp(exponent, 14u, 254u);
    let factor = bitcast<f32>((267u - shift) << 23u);
    if lane == 0u && inside {
        row_scale[m] = bitcast<f32>((shift - 13u) << 23u);
    }
    let width = params.pitch / PLANES;
    let row = group.x * params.pitch;
    for (var i = lane; i < width; i += WG) {
        var values = mat2x4<f32>(vec4<f32>(0.0), vec4<f32>(0.0));
        if inside && i < params.units {
            values = x8(m, i) * factor;
        }
        let high = Halves(vec4<f16>(values[0]), vec4<f16>(values[1]));
        put(row + i, high);
        if PLANES == 2u {
            let rest = Halves(vec4<f16>(values[0] - vec4<f32>(high.low)), vec4<f16>(values[1] - vec4<f32>(high.high)));
            put(row + width + i, rest);
        }
    }
}

struct Halves { low: vec4<f16>, high: vec4<f16> }

fn put(unit: u32, values: Halves) {
    halves[2u * unit] = values.low;
    halves[2u * unit + 1u] = values.high;
}
