// y[m, n] = sum_k x[m, k] * W[n, k], for M <= 8 rows of x; x may be normed first, y gated or added to.
//
// A norm is deferred: x is multiplied by its gain, the squares of x are summed in the same loop, and each row
// is divided by its root mean square at the end.
// Work split: a workgroup takes R rows of W (gated: half of them and their partners); its WG invocations stride over k
// in units of 8 values, so every weight is read once for all rows of x. Sums meet at the end. Larger
// workgroups make shorter loops, which few rows need on a large GPU (`matvec::lanes` chooses).
// Parts: x8 and dot8 (x_aligned, x_odd), gain8 (gain, no_gain), code8 and scaled (weight_*, dense or affine),
// emit, sum4 (sum_shared, sum_subgroup), widen (floats). Bindings are declared by the op: they differ with
// the weight's format.
// Best on an NVIDIA H200 for one row of x, in a chain with the 1.7 us that a dispatch waits for the one before:
// bf16 4.4 TB/s (128256 x 4096), 3.8 (28672 x 4096 gated), 4.0 (4096 x 14336), 2.9 (4096 x 4096).
// For several rows what takes time is reading x: four of them on an H100 111 us (28672 x 4096 gated), 70 (4096 x 14336), 33
// (6144 x 4096). Weights of the next units on their way meanwhile made that 3 to 5% slower; eight rows of W at a time make
// 4096 x 14336 49 us, and the others as long.

override M: u32 = 1u;
override NORM: bool = false;
override GATED: bool = false;
override R: u32 = 4u;
override WG: u32 = 64u;

struct Rows { a: mat2x4<f32>, b: mat2x4<f32>, c: mat2x4<f32>, d: mat2x4<f32>, at: vec4<u32> }

// Rows of W times 8 values of row m of x, and the squares of these.
struct Column { y: vec4<f32>, squares: f32 }

fn column(w: Rows, gain: mat2x4<f32>, m: u32, i: u32) -> Column {
    let raw = x8(m, i);
    let x = mat2x4<f32>(raw[0] * gain[0], raw[1] * gain[1]);
    let dots = vec4<f32>(dot8(w.a, x), dot8(w.b, x), dot8(w.c, x), dot8(w.d, x));
    return Column(scaled(dots, sum8(x), w.at, i), dot8(raw, raw));
}

// Rows that are taken together. Gated: R / 2 rows, then their partners.
fn rows_from(first: u32) -> vec4<u32> {
    let i = vec4<u32>(0u, 1u, 2u, 3u);
    let half = vec4<u32>(max(R / 2u, 1u));
    let partners = (i % half) + select(vec4<u32>(0u), vec4<u32>(params.n), i >= half);
    return min(vec4<u32>(first) + select(i, partners, GATED), vec4<u32>(params.rows - 1u));
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let step = select(R, R / 2u, GATED);
    let first = (group.y * params.stride + group.x) * step;
    let row = rows_from(first);
    let own = params.first_row + min(first + lane % R, params.rows - 1u);
    var added = 0.0;
    if M == 1u && !GATED {
        added = before(0u, own);
    }
    var y0 = vec4<f32>(0.0);
    var y1 = vec4<f32>(0.0);
    var y2 = vec4<f32>(0.0);
    var y3 = vec4<f32>(0.0);
    var y4 = vec4<f32>(0.0);
    var y5 = vec4<f32>(0.0);
    var y6 = vec4<f32>(0.0);
    var y7 = vec4<f32>(0.0);
    var squares = mat2x4<f32>(vec4<f32>(0.0), vec4<f32>(0.0));
    for (var i = lane; i < params.units; i += WG) {
        var w = Rows();
        w.at = row;
        w.a = code8(row.x, i);
        if R > 1u {
            w.b = code8(row.y, i);
        }
        if R > 2u {
            w.c = code8(row.z, i);
            w.d = code8(row.w, i);
        }
        let gain = gain8(i);
        let c0 = column(w, gain, 0u, i);
        y0 += c0.y;
        squares[0].x += c0.squares;
        if M > 1u {
            let c1 = column(w, gain, 1u, i);
            y1 += c1.y;
            squares[0].y += c1.squares;
        }
        if M > 2u {
            let c2 = column(w, gain, 2u, i);
            y2 += c2.y;
            squares[0].z += c2.squares;
        }
        if M > 3u {
            let c3 = column(w, gain, 3u, i);
            y3 += c3.y;
            squares[0].w += c3.squares;
        }
        if M > 4u {
            let c4 = column(w, gain, 4u, i);
            y4 += c4.y;
            squares[1].x += c4.squares;
        }
        if M > 5u {
            let c5 = column(w, gain, 5u, i);
            y5 += c5.y;
            squares[1].y += c5.squares;
        }
        if M > 6u {
            let c6 = column(w, gain, 6u, i);
            y6 += c6.y;
            squares[1].z += c6.squares;
        }
        if M > 7u {
            let c7 = column(w, gain, 7u, i);
            y7 += c7.y;
            squares[1].w += c7.squares;
        }
    }
    if NORM {
        squares[0] = sum4(lane, squares[0]);
        if M > 4u {
            squares[1] = sum4(lane, squares[1]);
        }
    }
    finish(0u, first, lane, sum4(lane, y0), squares[0].x, added);
    if M > 1u {
        finish(1u, first, lane, sum4(lane, y1), squares[0].y, 0.0);
    }
    if M > 2u {
        finish(2u, first, lane, sum4(lane, y2), squares[0].z, 0.0);
    }
    if M > 3u {
        finish(3u, first, lane, sum4(lane, y3), squares[0].w, 0.0);
    }
    if M > 4u {
        finish(4u, first, lane, sum4(lane, y4), squares[1].x, 0.0);
    }
    if M > 5u {
        finish(5u, first, lane, sum4(lane, y5), squares[1].y, 0.0);
    }
    if M > 6u {
        finish(6u, first, lane, sum4(lane, y6), squares[1].z, 0.0);
    }
    if M > 7u {
        finish(7u, first, lane, sum4(lane, y7), squares[1].w, 0.0);
    }
}

// The first invocations store one column each.
fn finish(m: u32, first: u32, lane: u32, sums: vec4<f32>, squares: f32, added: f32) {
    let sum = sums * select(1.0, inverseSqrt(squares / f32(params.k) + params.eps), NORM);
    if GATED {
        if lane < R / 2u && first + lane < params.n {
            let up = select(sum.y, select(sum.z, sum.w, lane == 1u), R == 4u);
            emit_gated(m, first + lane, select(sum.x, sum.y, lane == 1u), up);
        }
    } else if lane < R && first + lane < params.rows {
        let value = select(select(sum.x, sum.y, lane == 1u), select(sum.z, sum.w, lane == 3u), lane > 1u);
        let n = params.first_row + first + lane;
        if M == 1u {
            y[n] = value + added;
        } else {
            emit(m, n, value);
        }
    }
}
