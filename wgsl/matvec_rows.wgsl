// y[m, n] = sum_k x[m, k] * W[n, k] for up to 8 rows of x and affine weights, by integer products of 4 bytes; y may be
// gated or added to.
//
// Work split: `bytes` has made the planes of x. TEAM invocations take R rows of W (gated: half of them and their
// partners) and stride over k in chunks of 32, so every weight is read and unpacked once for all rows of x. Of many rows
// of x a workgroup brings planes into its memory, a block of 32 chunks of each at a time; few stay near anyway, and SHARE
// teams take the same rows of W, each with blocks of its own. Sums meet at the end, and each invocation stores some.
// Fetching the next block into registers meanwhile made a step of 8 answers of an 8B model 6% slower: fewer workgroups
// fit at a time, it seems.
// On an NVIDIA H200, 4 bits, `bytes` included: 28672 x 4096 gated by 8 rows 72 us, by 4 48 us; 4096 x 14336 45 and 34 us.
// Two teams for the same rows made a step of 2 answers of an 8B model 5 to 10% faster on an NVIDIA H100, one of 4 answers with
// 8 bits 12%.
// Parts: product (planes), packed (codes_*), gather, emit. Bindings are declared by the op.
enable subgroups;
// Teams divide subgroups and all loops are uniform.
diagnostic(off, subgroup_uniformity);

override WG: u32 = 256u;
override TEAM: u32 = 32u;
// 2 or 4.
override R: u32 = 4u;
override GATED: bool = false;
// Whether planes come into workgroup memory.
override SHARED: bool = true;
// Teams that share rows, where planes do not.
override SHARE: u32 = 1u;

const M: u32 = params.m;
const TEAMS: u32 = params.teams;

var<workgroup> planes: array<vec4<u32>, M * 128u>;
var<workgroup> scaling: array<vec4<f32>, M * 32u>;
// Of each row of x, each team and each of its rows of W.
var<workgroup> sums: array<f32, M * TEAMS * 4u>;

// A block of planes comes into workgroup memory.
fn bring(block: u32, lane: u32) {
    for (var i = lane; i < M * 128u; i += WG) {
        planes[i] = all_planes[block * M * 128u + i];
    }
    for (var i = lane; i < M * 32u; i += WG) {
        scaling[i] = all_scaling[block * M * 32u + i];
    }
}

fn plane(block: u32, at: u32) -> vec4<u32> {
    if SHARED {
        return planes[at];
    }
    return all_planes[min(block, params.blocks - 1u) * M * 128u + at];
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

// Rows of W by row m of x, in chunk c of a block.
fn column(w: Rows, block: u32, m: u32, c: u32) -> vec4<f32> {
    let at = m * 128u + c;
    let p0 = plane(block, at);
    let p1 = plane(block, at + 32u);
    let p2 = plane(block, at + 64u);
    let p3 = plane(block, at + 96u);
    var s = vec4<f32>(0.0);
    if SHARED {
        s = scaling[m * 32u + c];
    } else {
        s = all_scaling[(min(block, params.blocks - 1u) * M + m) * 32u + c];
        // A team that has no block left counts for nothing.
        if SHARE > 1u {
            s = select(vec4<f32>(0.0), s, block < params.blocks);
        }
    }
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

fn total(at: u32) -> f32 {
    var sum = sums[at];
    for (var i = 1u; i < SHARE; i++) {
        sum += sums[at + i * R];
    }
    return sum;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let member = lane % TEAM;
    let team = lane / TEAM;
    let step = select(R, R / 2u, GATED);
    let base = (group.y * params.stride + group.x) * (TEAMS / SHARE) * step;
    let partner = select(R / 2u, params.n, GATED);
    let first = base + team / SHARE * step;
    let part = team % SHARE;
    let row = min(vec4<u32>(first, first + 1u, first + partner, first + 1u + partner), vec4<u32>(params.rows - 1u));
    var w = rows_of(row, part * 32u + member);
    var y0 = vec4<f32>(0.0);
    var y1 = vec4<f32>(0.0);
    var y2 = vec4<f32>(0.0);
    var y3 = vec4<f32>(0.0);
    var y4 = vec4<f32>(0.0);
    var y5 = vec4<f32>(0.0);
    var y6 = vec4<f32>(0.0);
    var y7 = vec4<f32>(0.0);
    for (var turn = 0u; turn < params.blocks; turn += SHARE) {
        let block = turn + part;
        if SHARED {
            workgroupBarrier();
            bring(block, lane);
            workgroupBarrier();
        }
        for (var begin = 0u; begin < 32u; begin += TEAM) {
            let c = begin + member;
            let now = w;
            let ends = begin + TEAM == 32u;
            w = rows_of(row, select(block, block + SHARE, ends) * 32u + select(begin + TEAM, 0u, ends) + member);
            y0 += column(now, block, 0u, c);
            y1 += column(now, block, 1u, c);
            if M > 2u {
                y2 += column(now, block, 2u, c);
            }
            if M > 3u {
                y3 += column(now, block, 3u, c);
            }
            if M > 4u {
                y4 += column(now, block, 4u, c);
            }
            if M > 5u {
                y5 += column(now, block, 5u, c);
            }
            if M > 6u {
                y6 += column(now, block, 6u, c);
            }
            if M > 7u {
                y7 += column(now, block, 7u, c);
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
    let columns = TEAMS / SHARE * step;
    for (var i = lane; i < M * columns; i += WG) {
        let m = i / columns;
        let column = i % columns;
        let n = base + column;
        if n < count {
            let at = (m * TEAMS + column / step * SHARE) * R + column % step;
            if GATED {
                emit_gated(m, n, total(at), total(at + step));
            } else {
                emit(m, params.first_row + n, total(at));
            }
        }
    }
}
