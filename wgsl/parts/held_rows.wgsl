// Up to 8 rows of x in registers, for dense weights. Invocation `member` of a team has units member, member + TEAM, .. of 8
// values of each: SPAN of them, zeros past the end.
// Needs M, TEAM, COLUMNS, params; meet, which_column of the kernel; SPAN, Fetched, value8, gained8 (fetch_floats); gain8 (gain,
// no_gain), dot8; Raw8, unpack8 (weight_*).

override NORM: bool = false;

// Squares, of each subgroup of the first team and each row of x; then the norm's factors.
var<workgroup> all_squares: array<f32, 256>;
var<workgroup> factors: array<f32, 8>;

// 8 values of each row of x.
struct Unit {
    a: mat2x4<f32>, b: mat2x4<f32>, c: mat2x4<f32>, d: mat2x4<f32>,
    e: mat2x4<f32>, f: mat2x4<f32>, g: mat2x4<f32>, h: mat2x4<f32>,
}

var<private> x_a: Unit;
var<private> x_b: Unit;
var<private> x_c: Unit;
var<private> x_d: Unit;

fn unit_at(i: u32) -> Unit {
    var x = Unit();
    x.a = value8(0u, i);
    x.b = value8(1u, i);
    if M > 2u { x.c = value8(2u, i); }
    if M > 3u { x.d = value8(3u, i); }
    if M > 4u { x.e = value8(4u, i); }
    if M > 5u { x.f = value8(5u, i); }
    if M > 6u { x.g = value8(6u, i); }
    if M > 7u { x.h = value8(7u, i); }
    return x;
}

fn gained(x: Unit, i: u32) -> Unit {
    let gain = gain8(min(i, params.units - 1u));
    return Unit(
        gained8(x.a, gain), gained8(x.b, gain), gained8(x.c, gain), gained8(x.d, gain),
        gained8(x.e, gain), gained8(x.f, gain), gained8(x.g, gain), gained8(x.h, gain),
    );
}

fn squares_of(x: Unit) -> mat2x4<f32> {
    return mat2x4<f32>(
        vec4<f32>(dot8(x.a, x.a), dot8(x.b, x.b), dot8(x.c, x.c), dot8(x.d, x.d)),
        vec4<f32>(dot8(x.e, x.e), dot8(x.f, x.f), dot8(x.g, x.g), dot8(x.h, x.h)),
    );
}

// One unit of a row of W by all rows of x.
fn by_unit(w: Raw8, x: Unit) -> mat2x4<f32> {
    let v = unpack8(w);
    var y = mat2x4<f32>();
    y[0].x = dot8(v, x.a);
    y[0].y = dot8(v, x.b);
    if M > 2u { y[0].z = dot8(v, x.c); }
    if M > 3u { y[0].w = dot8(v, x.d); }
    if M > 4u { y[1].x = dot8(v, x.e); }
    if M > 5u { y[1].y = dot8(v, x.f); }
    if M > 6u { y[1].z = dot8(v, x.g); }
    if M > 7u { y[1].w = dot8(v, x.h); }
    return y;
}

// What is asked for later comes later: before weights.
fn hold(member: u32) {
    x_a = unit_at(member);
    if SPAN > 1u {
        x_b = unit_at(member + TEAM);
    }
    if SPAN > 2u {
        x_c = unit_at(member + 2u * TEAM);
        x_d = unit_at(member + 3u * TEAM);
    }
}

fn squares() -> mat2x4<f32> {
    return squares_of(x_a) + squares_of(x_b) + squares_of(x_c) + squares_of(x_d);
}

fn gain_all(member: u32) {
    x_a = gained(x_a, member);
    if SPAN > 1u {
        x_b = gained(x_b, member + TEAM);
    }
    if SPAN > 2u {
        x_c = gained(x_c, member + 2u * TEAM);
        x_d = gained(x_d, member + 3u * TEAM);
    }
}

// A norm: gains go into x, factors are found; all call.
fn prepare(lane: u32, member: u32, at: u32, size: u32) {
    if !NORM {
        return;
    }
    let all = squares();
    let sum = meet(all, all, all, all, at, size);
    if at < 4u * COLUMNS && at % 4u == 0u && lane < TEAM {
        all_squares[lane / size * COLUMNS + which_column(at)] = sum;
    }
    gain_all(member);
    workgroupBarrier();
    if lane < COLUMNS {
        var square = 0.0;
        for (var i = 0u; i < TEAM / size; i++) {
            square += all_squares[i * COLUMNS + lane];
        }
        factors[lane] = inverseSqrt(square / f32(params.k) + params.eps);
    }
}

// What a result of row m of x is multiplied by, after a barrier.
fn factor_of(m: u32) -> f32 {
    if NORM {
        return factors[m];
    }
    return 1.0;
}

// Each row of x by what is fetched of a row of W.
fn multiply_all(w: Fetched) -> mat2x4<f32> {
    var y = by_unit(w.a, x_a);
    if SPAN > 1u {
        y += by_unit(w.b, x_b);
    }
    if SPAN > 2u {
        y += by_unit(w.c, x_c) + by_unit(w.d, x_d);
    }
    return y;
}
