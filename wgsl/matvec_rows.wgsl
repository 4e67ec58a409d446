// y[m, n] = sum_k x[m, k] * W[n, k] for up to 8 rows of x and affine weights, by integer products of 4 bytes; y may be
// gated or added to.
//
// Work split: `bytes` has made the planes of x. TEAM invocations take R rows of W (gated: half of them and their
// partners) and stride over k in chunks of 32, so every weight is read and unpacked once for all rows of x. A
// workgroup brings a block of planes, 32 chunks of every row, into its memory while the block before is multiplied. Its
// sums meet there at the end, and each invocation stores some.
// Parts: product (planes), packed (codes_*), gather, emit. Bindings are declared by the op.
enable subgroups;
// Teams divide subgroups and all loops are uniform.
diagnostic(off, subgroup_uniformity);

override WG: u32 = 256u;
override TEAM: u32 = 32u;
// 2 or 4.
override R: u32 = 4u;
override GATED: bool = false;

const M: u32 = params.m;
const TEAMS: u32 = params.teams;

var<workgroup> planes: array<vec4<u32>, M * 128u>;
var<workgroup> scaling: array<vec4<f32>, M * 32u>;
// Of each row of x, each team and each of its rows of W.
var<workgroup> sums: array<f32, M * TEAMS * 4u>;

// What an invocation fetches of a block.
struct Share { a: vec4<u32>, b: vec4<u32>, c: vec4<u32>, d: vec4<u32>, scaling: vec4<f32> }

fn fetch(block: u32, lane: u32) -> Share {
    let begin = block * M * 128u;
    let last = M * 128u - 1u;
    var own = Share();
    own.a = all_planes[begin + min(lane, last)];
    if M * 128u > WG {
        own.b = all_planes[begin + min(lane + WG, last)];
    }
    if M * 128u > 2u * WG {
        own.c = all_planes[begin + min(lane + 2u * WG, last)];
        own.d = all_planes[begin + min(lane + 3u * WG, last)];
    }
    own.scaling = all_scaling[block * M * 32u + min(lane, M * 32u - 1u)];
    return own;
}

fn keep(own: Share, lane: u32) {
    if lane < M * 128u {
        planes[lane] = own.a;
    }
    if lane + WG < M * 128u {
        planes[lane + WG] = own.b;
    }
    if lane + 2u * WG < M * 128u {
        planes[lane + 2u * WG] = own.c;
    }
    if lane + 3u * WG < M * 128u {
        planes[lane + 3u * WG] = own.d;
    }
    if lane < M * 32u {
        scaling[lane] = own.scaling;
    }
}

// Two rows are the first and the third.
struct Rows { a: Packed, b: Packed, c: Packed, d: Packed }

fn rows_of(row: vec4<u32>, chunk: u32) -> Rows {
    let c = min(chunk, params.units / 4u - 1u);
    var w = Rows();
    w.a = packed(row.x, c);
    w.c = packed(row.z, c);
    if R > 2u {
        w.b = packed(row.y, c);
        w.d = packed(row.w, c);
    }
    return w;
}

fn column(w: Rows, m: u32, c: u32) -> vec4<f32> {
    let p0 = planes[m * 128u + c];
    let p1 = planes[m * 128u + 32u + c];
    let p2 = planes[m * 128u + 64u + c];
    let p3 = planes[m * 128u + 96u + c];
    let s = scaling[m * 32u + c];
    var y = vec4<f32>(0.0);
    y.x = product(w.a, p0, p1, p2, p3, s);
    y.z = product(w.c, p0, p1, p2, p3, s);
    if R > 2u {
        y.y = product(w.b, p0, p1, p2, p3, s);
        y.w = product(w.d, p0, p1, p2, p3, s);
    }
    return y;
}

fn put(own: vec4<f32>, m: u32, team: u32, member: u32) {
    let sum = gather(own, member, TEAM);
    if member < R {
        sums[(m * TEAMS + team) * R + select(which_row(member), member, R == 2u)] = sum;
    }
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let member = lane % TEAM;
    let team = lane / TEAM;
    let step = select(R, R / 2u, GATED);
    let base = (group.y * params.stride + group.x) * TEAMS * step;
    let partner = select(R / 2u, params.n, GATED);
    let first = base + team * step;
    let row = min(vec4<u32>(first, first + 1u, first + partner, first + 1u + partner), vec4<u32>(params.rows - 1u));
    var w = rows_of(row, member);
    var share = fetch(0u, lane);
    var y0 = vec4<f32>(0.0);
    var y1 = vec4<f32>(0.0);
    var y2 = vec4<f32>(0.0);
    var y3 = vec4<f32>(0.0);
    var y4 = vec4<f32>(0.0);
    var y5 = vec4<f32>(0.0);
    var y6 = vec4<f32>(0.0);
    var y7 = vec4<f32>(0.0);
    for (var block = 0u; block < params.blocks; block++) {
        workgroupBarrier();
        keep(share, lane);
        workgroupBarrier();
        share = fetch(min(block + 1u, params.blocks - 1u), lane);
        for (var c = member; c < 32u; c += TEAM) {
            let now = w;
            w = rows_of(row, block * 32u + c + TEAM);
            y0 += column(now, 0u, c);
            y1 += column(now, 1u, c);
            if M > 2u {
                y2 += column(now, 2u, c);
            }
            if M > 3u {
                y3 += column(now, 3u, c);
            }
            if M > 4u {
                y4 += column(now, 4u, c);
            }
            if M > 5u {
                y5 += column(now, 5u, c);
            }
            if M > 6u {
                y6 += column(now, 6u, c);
            }
            if M > 7u {
                y7 += column(now, 7u, c);
            }
        }
    }
    put(y0, 0u, team, member);
    put(y1, 1u, team, member);
    if M > 2u {
        put(y2, 2u, team, member);
    }
    if M > 3u {
        put(y3, 3u, team, member);
    }
    if M > 4u {
        put(y4, 4u, team, member);
    }
    if M > 5u {
        put(y5, 5u, team, member);
    }
    if M > 6u {
        put(y6, 6u, team, member);
    }
    if M > 7u {
        put(y7, 7u, team, member);
    }
    workgroupBarrier();

    let count = select(params.rows, params.n, GATED);
    let columns = TEAMS * step;
    for (var i = lane; i < M * columns; i += WG) {
        let m = i / columns;
        let column = i % columns;
        let n = base + column;
        if n < count {
            let at = (m * TEAMS + column / step) * R + column % step;
            if GATED {
                emit_gated(m, n, sums[at], sums[at + step]);
            } else {
                emit(m, params.first_row + n, sums[at]);
            }
        }
    }
}
