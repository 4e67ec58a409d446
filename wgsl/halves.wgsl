// h[m, k] = f16(x[m, k] / scale[m]), scale[m] a power of two that brings the row's largest value to between
// 2^13 and 2^14: nothing overflows, and what is a millionth of it keeps all its bits. Zeros fill rows and
// columns up to whole tiles; tiles of BM x BK lie one after another, along k first. With PLANES == 2, tiles of
// what rounding took away follow those of the values.
//
// Work split: a workgroup of WG makes a row, its invocations stride over units of 8.
// Parts: x8 (x_aligned, x_odd), gain8 (gain, no_gain), sum_and_max (sum_shared, sum_subgroup).
enable f16;

override WG: u32 = 256u;
override NORM: bool = false;
// The order of values in 8 of them: as they are (0), or as codes are unpacked, in pairs (4: half_pairs) or bytes (8:
// half_bytes, half_q8).
override ORDER: u32 = 0u;
override PLANES: u32 = 1u;
override BM: u32 = 64u;
override BK: u32 = 32u;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let m = min(group.x, params.m - 1u);
    let inside = group.x < params.m;
    var most = vec4<f32>(0.0);
    var squares = vec4<f32>(0.0);
    for (var i = lane; i < params.units; i += WG) {
        let values = x8(m, i);
        squares += values[0] * values[0] + values[1] * values[1];
        let gained = gained8(values, i);
        most = max(most, max(abs(gained[0]), abs(gained[1])));
    }
    let own = vec2<f32>(dot(squares, vec4<f32>(1.0)), max(max(most.x, most.y), max(most.z, most.w)));
    let row = sum_and_max(lane, own);
    let shift = clamp(bitcast<u32>(row.y) >> 23u, 14u, 254u);
    let factor = bitcast<f32>((267u - shift) << 23u);
    var scale = bitcast<f32>((shift - 13u) << 23u);
    if NORM {
        scale *= inverseSqrt(row.x / f32(params.k) + params.eps);
    }
    if lane == 0u && inside {
        row_scale[m] = scale;
    }
    let width = params.all_steps / PLANES * (BK / 8u);
    for (var i = lane; i < width; i += WG) {
        var values = mat2x4<f32>(vec4<f32>(0.0), vec4<f32>(0.0));
        if inside && i < params.units {
            values = gained8(x8(m, i), i) * factor;
        }
        if PLANES == 2u {
            // Cut by hand: a compiler may take a number for its own rounding.
            let cut = mat2x4<f32>(cut4(values[0]), cut4(values[1]));
            put(group.x, i, cut);
            put(group.x, width + i, values - cut);
        } else {
            put(group.x, i, values);
        }
    }
}

fn gained8(values: mat2x4<f32>, i: u32) -> mat2x4<f32> {
    let gain = gain8(i);
    return mat2x4<f32>(values[0] * gain[0], values[1] * gain[1]);
}

fn cut4(values: vec4<f32>) -> vec4<f32> {
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(values) & vec4<u32>(0xffffe000u));
}

fn put(m: u32, i: u32, values: mat2x4<f32>) {
    let tile = m / BM * params.all_steps + i / (BK / 8u);
    let at = ((tile * BM + m % BM) * (BK / 8u) + i % (BK / 8u)) * 2u;
    let a = vec4<f16>(values[0]);
    let b = vec4<f16>(values[1]);
    if ORDER == 4u {
        halves[at] = vec4<f16>(a.x, b.x, a.y, b.y);
        halves[at + 1u] = vec4<f16>(a.z, b.z, a.w, b.w);
    } else if ORDER == 8u {
        halves[at] = a.xzyw;
        halves[at + 1u] = b.xzyw;
    } else {
        halves[at] = a;
        halves[at + 1u] = b;
    }
}
