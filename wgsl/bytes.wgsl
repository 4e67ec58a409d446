// Rows of x as planes of bytes (planes) in memory, for matvec_rows; x may be normed first.
//
// Work split: a workgroup of WG makes a row, its invocations stride over units of 8 values.
// 32 chunks of 32 values make a block, the last filled up with zeros. Block after block has row after row, and of a row
// the first units of all chunks, the second ones, and so on.
// Parts: numbers (planes), x8 and dot8 (x_aligned), gain8 (gain, no_gain), sum4 (sum_subgroup).

override WG: u32 = 256u;
override NORM: bool = false;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let m = group.x;
    var factor = 1.0;
    if NORM {
        var squares = 0.0;
        for (var i = lane; i < params.units; i += WG) {
            let raw = x8(m, i);
            squares += dot8(raw, raw);
        }
        squares = sum4(lane, vec4<f32>(squares, 0.0, 0.0, 0.0)).x;
        factor = inverseSqrt(squares / f32(params.k) + params.eps);
    }
    for (var i = lane; i < params.blocks * 128u; i += WG) {
        var x = mat2x4<f32>(vec4<f32>(0.0), vec4<f32>(0.0));
        if i < params.units {
            let raw = x8(m, i);
            let gain = gain8(i);
            x = mat2x4<f32>(raw[0] * gain[0], raw[1] * gain[1]);
        }
        let made = numbers(x);
        let at = (i >> 7u) * params.m + m;
        let chunk = (i >> 2u) & 31u;
        planes[at * 128u + (i & 3u) * 32u + chunk] = made.words;
        if (i & 3u) == 0u {
            scaling[at * 32u + chunk] = factor * made.scaling;
        }
    }
}
