// y[m, n] = sum_k x[m, k] * W[n, k] for many rows of x, by cooperative matrices: f16 factors, f32 sums.
//
// Work split: a workgroup makes a tile of BM x BN outputs, each of its subgroups TM x TN fragments of
// EDGE x EDGE. Tiles of BK values of k pass through workgroup memory. Values of the next tile are on their way
// from memory while this one is multiplied, and land in the other of two buffers where there are two. Rows
// there are 16 bytes longer than their values, so that neighbours fall into different banks. Sums leave
// through workgroup memory: a matrix shows its elements no other way. A third dimension of the grid splits k;
// then the sums are partial ones (see matmul_combine).
// x comes from `halves`: rows scaled by powers of two, filled up with zeros to whole tiles. A weight that f16
// cannot hold raises `peak`; the tile's sums are then made anew from f32 weights.
// Generated (ops/matmul.rs): the constants and matrix types, one line per fragment or load, `deliver`.
// Parts: put_x, put_w and the tiles (tiles_vector, tiles_scalar); Raw, fetch8, keep8 (half_*).
enable f16;
enable wgpu_cooperative_matrix;

// 8 values on their way into workgroup memory.
struct Halves { low: vec4<f16>, high: vec4<f16> }

const PITCH: u32 = BK + 8u;
const THREADS: u32 = SM * SN * LANES;
const X_UNITS: u32 = BM * BK / 8u;
const W_UNITS: u32 = BN * BK / 8u / GRANULE;

var<workgroup> staged: array<f32, STAGED>;
var<workgroup> overflow: atomic<u32>;
var<private> lane: u32;
var<private> subgroup: u32;
var<private> first_m: u32;
var<private> first_n: u32;
var<private> part: u32;
var<private> peak: f32;
var<private> inexact: bool;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
    @builtin(subgroup_id) subgroup_id: u32,
) {
    // Tiles in bands of 16 rows of tiles, so that those at work at one time share their inputs.
    let band = group.x / (16u * params.tiles_n);
    let within = group.x % (16u * params.tiles_n);
    let rows = min(16u, params.tiles_m - band * 16u);
    first_m = (band * 16u + within % rows) * BM;
    first_n = within / rows * BN;
    part = group.z;
    lane = index;
    subgroup = subgroup_id;
    peak = 0.0;

    let first = group.z * params.steps;
    let last = min(first + params.steps, params.all_steps) - 1u;
    fetch(first);
    keep(0u);
    if index == 0u {
        atomicStore(&overflow, 0u);
    }
    workgroupBarrier();
    var buffer = 0u;
    for (var step = first; step <= last; step++) {
        fetch(min(step + 1u, last));
        multiply(buffer);
        if BUFFERS == 1u {
            workgroupBarrier();
        } else {
            buffer = 1u - buffer;
        }
        keep(buffer);
        workgroupBarrier();
    }
    if peak > 65504.0 {
        atomicOr(&overflow, 1u);
    }
    workgroupBarrier();
    inexact = atomicLoad(&overflow) != 0u;
    finish();
}

fn fetch_x(u: u32, step: u32) -> Halves {
    let unit = min(u * THREADS + lane, X_UNITS - 1u);
    let row = first_m + unit / (BK / 8u);
    let at = (row * params.pitch + step * (BK / 8u) + unit % (BK / 8u)) * 2u;
    return Halves(x[at], x[at + 1u]);
}

fn keep_x(u: u32, buffer: u32, values: Halves) {
    let unit = u * THREADS + lane;
    if X_UNITS % THREADS == 0u || unit < X_UNITS {
        put_x((buffer * BM + unit / (BK / 8u)) * PITCH + unit % (BK / 8u) * 8u, values);
    }
}

fn fetch_w(u: u32, step: u32) -> Raw {
    let unit = min(u * THREADS + lane, W_UNITS - 1u);
    let row = weight_row(unit / (BK / 8u / GRANULE));
    let i = step * (BK / 8u) % params.width + unit % (BK / 8u / GRANULE) * GRANULE;
    return fetch8(row, min(i, params.units - GRANULE));
}

fn keep_w(u: u32, buffer: u32, values: Raw) {
    let unit = u * THREADS + lane;
    if W_UNITS % THREADS == 0u || unit < W_UNITS {
        let row = unit / (BK / 8u / GRANULE);
        keep8((buffer * BN + row) * PITCH + unit % (BK / 8u / GRANULE) * GRANULE * 8u, values);
    }
}

// The row of W that makes a column of the tile. Of gated pairs, a subgroup's first columns are gates, the
// others what they let through.
fn weight_row(column: u32) -> u32 {
    var row = first_n + column;
    if GATED {
        let half = TN * EDGE / 2u;
        let pair = (first_n / 2u) + column / (2u * half) * half + column % half;
        row = select(pair, pair + params.rows / 2u, column % (2u * half) >= half);
    }
    return min(row, params.rows - 1u);
}

// Where a subgroup's fragments begin in the tiles.
fn left(i: u32, buffer: u32, k: u32) -> u32 {
    return (buffer * BM + (subgroup / SN * TM + i) * EDGE) * PITCH + k;
}

fn right(j: u32, buffer: u32, k: u32) -> u32 {
    return (buffer * BN + (subgroup % SN * TN + j) * EDGE) * PITCH + k;
}

// Hands on fragment (i, j), staged by its subgroup; of gated pairs, with fragment (i, j + TN / 2).
fn hand_on(i: u32, j: u32) {
    workgroupBarrier();
    let own = subgroup * STAGED / (SM * SN);
    for (var e = lane % LANES; e < EDGE * EDGE; e += LANES) {
        let m = first_m + (subgroup / SN * TM + i) * EDGE + e / EDGE;
        let scale = row_scale[min(m, params.m - 1u)];
        if GATED {
            let n = first_n / 2u + (subgroup % SN * TN / 2u + j) * EDGE + e % EDGE;
            if m < params.m && n < params.rows / 2u {
                let gate = exact(m, n, staged[own + e]) * scale;
                let up = exact(m, n + params.rows / 2u, staged[own + EDGE * EDGE + e]) * scale;
                deliver2(m, params.first_row + n, gate, up);
            }
        } else {
            let n = first_n + (subgroup % SN * TN + j) * EDGE + e % EDGE;
            if m < params.m && n < params.rows {
                deliver(m, params.first_row + n, exact(m, n, staged[own + e]) * scale);
            }
        }
    }
    workgroupBarrier();
}

// The sum, or what it should have been where a weight of the tile was too large.
fn exact(m: u32, n: u32, sum: f32) -> f32 {
    if !inexact {
        return sum;
    }
    let first = part * params.steps * (BK / 8u);
    let last = min(first + params.steps * (BK / 8u), params.pitch);
    var result = 0.0;
    for (var i = first; i < last; i++) {
        let w = wide8(n, min(i % params.width, params.units - 1u));
        let at = (m * params.pitch + i) * 2u;
        result += dot(vec4<f32>(x[at]), w[0]) + dot(vec4<f32>(x[at + 1u]), w[1]);
    }
    return result;
}
