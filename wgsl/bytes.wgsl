// Rows of x as planes of bytes (planes) in memory, for matvec_rows and matvec_several; x may be normed first.
//
// Work split: a workgroup makes a block of a row, which is 32 chunks of 32 values, filled up with zeros at the row's end;
// each of its invocations makes 8 values. For a norm every workgroup looks at the whole row. Block after block has row
// after row, and of a row the first units of all chunks, the second ones, and so on.
// Parts: numbers (planes), x8 and dot8 (x_aligned), gain8 (gain, no_gain), sum4 (sum_subgroup).

const WG: u32 = 128u;
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
    let i = group.y * WG + lane;
    var x = mat2x4<f32>();
    if i < params.units {
        let raw = x8(m, i);
        let gain = gain8(i);
        x = mat2x4<f32>(raw[0] * gain[0], raw[1] * gain[1]);
    }
    let made = numbers(x);
    let at = group.y * params.m + m;
    let chunk = lane >> 2u;
    planes[at * 128u + (lane & 3u) * 32u + chunk] = made.words;
    if (lane & 3u) == 0u {
        scaling[at * 32u + chunk] = factor * made.scaling;
    }
}
