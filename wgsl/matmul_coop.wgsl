// y[m, n] = sum_k x[m, k] * W[n, k] for many rows of x, by cooperative matrices: f16 factors, f32 sums.
//
// Work split: a workgroup makes a tile of BM x BN outputs, each of its subgroups TM x TN fragments of EDGE x EDGE. Tiles of
// BK values of k pass through workgroup memory. Values of the next tile are on their way from memory while this one is
// multiplied. Rows there are 16 bytes longer than their values, so that neighbours fall into different banks. Sums leave
// through workgroup memory: a matrix shows its elements no other way. A third dimension of the grid splits k; then the sums
// are partial ones (see matmul_combine).
// x comes from `halves`: rows scaled by powers of two, filled up with zeros to whole tiles. A weight that f16
// cannot hold raises `peak`; the tile's sums are then made anew from f32 weights.
// Generated (ops/matmul_tile.rs): constants, matrix types, one line per fragment or load, `deliver`.
// Parts: put_x, put_w and the tiles (tiles_vector, tiles_scalar); Values, fetch, keep of x (x_halves) and of the
// weight, which comes times LIFT (half_*).
// Best, without robust buffer access: on an H100 f16 8192^3 262 TFLOP/s, 254 with `halves`; on an H200, prompt of 2048, 28672
// x 4096: bf16 216, 8 bits 202, 4 bits 210; of an 8B model with 2, 3, 5 and 6 bits such a prompt takes 155, 164, 173 and 163
// ms, with 4 148. On an H100, between a model's other kernels, prompt of 512, 4 bits: 28672 x 4096 gated 211, 4096 x 14336
// 203, 6144 x 4096 153, 4096 x 4096 150.
enable f16;
enable wgpu_cooperative_matrix;

const BAND: u32 = 8u;
const PITCH: u32 = BK + 8u;
const THREADS: u32 = SM * SN * LANES;
const X_LOADS: u32 = BM * BK / X_LOAD;
const W_LOADS: u32 = BN * BK / LOAD;

var<workgroup> staged: array<f32, STAGED>;
var<private> lane: u32;
var<private> subgroup: u32;
var<private> first_m: u32;
var<private> first_n: u32;
var<private> part: u32;
var<private> peak: f32;
var<private> inexact: bool;
var<private> gates: array<f32, EDGE * EDGE / LANES>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
    @builtin(subgroup_id) subgroup_id: u32,
) {
    // Tiles in bands of rows of tiles, so that those at work at one time share their inputs.
    let band = group.x / (BAND * params.tiles_n);
    let within = group.x % (BAND * params.tiles_n);
    let rows = min(BAND, params.tiles_m - band * BAND);
    first_m = (band * BAND + within % rows) * BM;
    first_n = within / rows * BN;
    part = group.z;
    lane = index;
    subgroup = subgroup_id;
    peak = 0.0;

    let first = group.z * params.steps;
    let last = min(first + params.steps, params.all_steps) - 1u;
    fetch_all(first);
    keep_all();
    workgroupBarrier();
    for (var step = first; step <= last; step++) {
        fetch_all(min(step + 1u, last));
        multiply();
        workgroupBarrier();
        keep_all();
        workgroupBarrier();
    }
    // Before sums are staged, the first of their places tells whether a weight was too large.
    if index == 0u {
        staged[0] = 0.0;
    }
    workgroupBarrier();
    if peak > 65504.0 {
        staged[0] = 1.0;
    }
    workgroupBarrier();
    inexact = staged[0] != 0.0;
    workgroupBarrier();
    finish();
}

// Of x a tile lies in one piece, row by row.
fn fetch_x(u: u32, step: u32) -> Values {
    let load = min(u * THREADS + lane, X_LOADS - 1u);
    return x[(first_m / BM * params.all_steps + step) * X_LOADS + load];
}

fn keep_x(u: u32, values: Values) {
    let load = u * THREADS + lane;
    if X_LOADS % THREADS == 0u || load < X_LOADS {
        store_x(load / (BK / X_LOAD) * PITCH + load % (BK / X_LOAD) * X_LOAD, values);
    }
}

fn fetch_w(u: u32, step: u32) -> Raw {
    let load = min(u * THREADS + lane, W_LOADS - 1u);
    let k = step_of_k(step) * BK + load % (BK / LOAD) * LOAD;
    return fetch(weight_row(load / (BK / LOAD)), min(k, params.units * 8u - LOAD));
}

fn keep_w(u: u32, values: Raw) {
    let load = u * THREADS + lane;
    if W_LOADS % THREADS == 0u || load < W_LOADS {
        keep(load / (BK / LOAD) * PITCH + load % (BK / LOAD) * LOAD, values);
    }
}

// With two planes of x, the weight is read once for each.
fn step_of_k(step: u32) -> u32 {
    if PLANES == 1u {
        return step;
    }
    return step % params.steps_of_k;
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
fn left(i: u32, k: u32) -> u32 {
    return (subgroup / SN * TM + i) * EDGE * PITCH + k;
}

fn right(j: u32, k: u32) -> u32 {
    return (subgroup % SN * TN + j) * EDGE * PITCH + k;
}

// Keeps the elements that this invocation will hand on of a staged fragment of gates, for the same place takes what
// they let through.
fn keep_gates() {
    workgroupBarrier();
    for (var u = 0u; u < EDGE * EDGE / LANES; u++) {
        gates[u] = staged[subgroup * STAGED / (SM * SN) + u * LANES + lane % LANES];
    }
    workgroupBarrier();
}

// Hands on fragment (i, j), staged by its subgroup; of gated pairs, fragment (i, j + TN / 2) with its gates.
fn hand_on(i: u32, j: u32) {
    workgroupBarrier();
    let own = subgroup * STAGED / (SM * SN);
    for (var u = 0u; u < EDGE * EDGE / LANES; u++) {
        let e = u * LANES + lane % LANES;
        let m = first_m + (subgroup / SN * TM + i) * EDGE + e / EDGE;
        let scale = row_scale[min(m, params.m - 1u)] / LIFT;
        if GATED {
            let n = first_n / 2u + (subgroup % SN * TN / 2u + j) * EDGE + e % EDGE;
            if m < params.m && n < params.rows / 2u {
                let gate = exact(m, n, gates[u]) * scale;
                let up = exact(m, n + params.rows / 2u, staged[own + e]) * scale;
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
    let first = part * params.steps;
    let last = min(first + params.steps, params.all_steps);
    var result = 0.0;
    for (var step = first; step < last; step++) {
        for (var i = 0u; i < BK / 8u; i++) {
            let w = wide8(n, min(step_of_k(step) * (BK / 8u) + i, params.units - 1u));
            let values = wide_x8((first_m / BM * params.all_steps + step) * BM * BK / 8u + m % BM * (BK / 8u) + i);
            result += dot(values[0], w[0]) + dot(values[1], w[1]);
        }
    }
    return result;
}
