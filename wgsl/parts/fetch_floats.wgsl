// What an invocation of a team has of a row of dense weights or of x: units member, member + TEAM, .. of 8 values, SPAN of
// them.
// Parts: Raw8, raw8 (weight_*), x8 (x_aligned).

// 1, 2 or 4.
override SPAN: u32 = 2u;

struct Fetched { a: Raw8, b: Raw8, c: Raw8, d: Raw8 }

fn fetch(row: u32, member: u32) -> Fetched {
    let last = params.units - 1u;
    var w: Fetched;
    w.a = raw8(row, min(member, last));
    if SPAN > 1u {
        w.b = raw8(row, min(member + TEAM, last));
    }
    if SPAN > 2u {
        w.c = raw8(row, min(member + 2u * TEAM, last));
        w.d = raw8(row, min(member + 3u * TEAM, last));
    }
    return w;
}

// Unit i of row m of x; zeros past the end.
fn value8(m: u32, i: u32) -> mat2x4<f32> {
    if i >= params.units {
        return mat2x4<f32>();
    }
    return x8(m, i);
}

fn gained8(x: mat2x4<f32>, gain: mat2x4<f32>) -> mat2x4<f32> {
    return mat2x4<f32>(x[0] * gain[0], x[1] * gain[1]);
}
