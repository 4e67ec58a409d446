// y[m, n] = sum_k x[m, k] * W[n, k] for 2 to 8 rows of x, which are held in registers while rows of W stream past; x may be
// normed first, y gated or added to.
//
// Work split: TEAM invocations share a row of W, each with its own few values of every row of x. A workgroup of one or more
// teams takes an even share of the rows; each team takes four at a time, and each is replaced by the next as soon as it is
// multiplied, or all are fetched before. Sums of a subgroup meet by shuffles, those of a team in workgroup memory, whenever
// that is full. Of dense weights with long rows each workgroup takes a part of k, and matmul_combine adds up.
// A norm of dense x is deferred: the gain goes into x, the root mean squares into the results.
// bf16 on an NVIDIA H200 (4.56 TB/s), between a model's other kernels: 28672 x 4096 gated by 2 rows of x 63 us (3.7 TB/s), by
// 4 77 (95 row by row, x read again for four rows of W), by 8 93; 6144 x 4096 normed by 2, 4 and 8 19, 19 and 27. Of f16
// matrices, 8 rows and what f16 takes away of them held by 16 subgroups, 28672 x 4096 took 109 us. On an H100 (3.1 TB/s) 4096 x
// 14336 by 2, 4 and 8 in parts of k 41, 45 and 53, besides 1.7 to add up.
// 4 bits on an H100: 28672 x 4096 gated by 3 rows 32, by 4 35 (matvec_rows 36), two thirds of what instructions allow: 700
// for four rows of W, a third of them integer products, which NVIDIA's compiler never adds to a sum. By 8 rows 60 (62), with
// 256 invocations, 4096 x 4096 by 8 slower. Planes made here instead of by `bytes`: by 2 rows as fast, by 4 a fifth slower.
// Parts: hold, prepare, multiply_all, factor_of (held_rows, held_planes); fetch (fetch_floats with weight_*, by_chunks with
// product, codes_*);
// own_results, row_at (own_rows); sum_from, half1, half2, half4 (gather); emit. Bindings are declared by the op.
enable subgroups;
// Teams are whole subgroups, so loops over a team's rows are uniform in each.
diagnostic(off, subgroup_uniformity);

override M: u32 = 2u;
override WG: u32 = 512u;
override TEAM: u32 = 512u;
override GATED: bool = false;
// Whether each row is replaced by the next as soon as it is multiplied; else all are fetched before.
override REFILL: bool = true;
// Invocations of a subgroup, where all have as many, else 0. NVIDIA's compiler then makes one block of a turn; in several
// every fetch was waited for at the first use of any.
override SIZE: u32 = 0u;
// Units of a part of k, where each part is for other workgroups and results are sums for matmul_combine.
override PART: u32 = 0u;
// Rows of x, rounded up to a power of two: 2, 4 or 8.
override COLUMNS: u32 = 2u;

const ROWS: u32 = 4u;

// Of each row of a batch, each subgroup of its team and each row of x.
var<workgroup> sums: array<f32, params.sums>;

// The sums over a subgroup of four rows of W by all rows of x. Lane `at` has those of row at % 4 of W and of row
// which_column(at) of x.
fn meet(
    y0: mat2x4<f32>, y1: mat2x4<f32>, y2: mat2x4<f32>, y3: mat2x4<f32>, at: u32, size: u32,
) -> f32 {
    if COLUMNS == 2u {
        let y = half4(vec4<f32>(y0[0].xy, y2[0].xy), vec4<f32>(y1[0].xy, y3[0].xy), 1u, at);
        return sum_from(half1(half2(y.xy, y.zw, 2u, at), 4u, at), 8u, size);
    }
    let low = half4(half4(y0[0], y1[0], 1u, at), half4(y2[0], y3[0], 1u, at), 2u, at);
    if COLUMNS == 4u {
        return sum_from(half1(half2(low.xy, low.zw, 4u, at), 8u, at), 16u, size);
    }
    let high = half4(half4(y0[1], y1[1], 1u, at), half4(y2[1], y3[1], 1u, at), 2u, at);
    let y = half4(low, high, 4u, at);
    return sum_from(half1(half2(y.xy, y.zw, 8u, at), 16u, at), 32u, size);
}

fn which_column(at: u32) -> u32 {
    // The first bit beyond those of W's rows is the greatest of x's.
    return reverseBits(at / 4u % COLUMNS) >> (32u - countTrailingZeros(COLUMNS));
}

// A result: row `local` of a batch, of which `subgroups` have sums, by row m of x.
fn total(local: u32, m: u32, subgroups: u32) -> f32 {
    var sum = 0.0;
    for (var i = 0u; i < subgroups; i++) {
        sum += sums[(local * subgroups + i) * COLUMNS + m];
    }
    return sum * factor_of(m);
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_size) real_size: u32,
) {
    let size = select(real_size, SIZE, SIZE > 0u);
    let subgroups = TEAM / size;
    let at = lane % size;
    let member = lane % TEAM;
    let own_part = group.y * PART + member;
    hold(own_part);
    let per = select(1u, 2u, GATED);
    let own = own_results(group.x, groups.x);
    let begin = own.x;
    let results = own.y;
    let rows = results * per;
    let stride = WG / TEAM * ROWS;
    // The same for all of a subgroup, as the compiler is told: what follows is one way for all.
    var r = subgroupBroadcastFirst(lane / TEAM) * ROWS;
    var w0 = fetch(row_at(begin, r, rows), own_part);
    var w1 = fetch(row_at(begin, r + 1u, rows), own_part);
    var w2 = fetch(row_at(begin, r + 2u, rows), own_part);
    var w3 = fetch(row_at(begin, r + 3u, rows), own_part);

    prepare(lane, own_part, at, size);

    let batch = params.sums / (subgroups * COLUMNS);
    for (var base = 0u; base < rows; base += batch) {
        let end = min(base + batch, rows);
        for (; r < end; r += stride) {
            let next = r + stride;
            var y0: mat2x4<f32>;
            var y1: mat2x4<f32>;
            var y2: mat2x4<f32>;
            var y3: mat2x4<f32>;
            if REFILL {
                y0 = multiply_all(w0);
                w0 = fetch(row_at(begin, next, rows), own_part);
                y1 = multiply_all(w1);
                w1 = fetch(row_at(begin, next + 1u, rows), own_part);
                y2 = multiply_all(w2);
                w2 = fetch(row_at(begin, next + 2u, rows), own_part);
                y3 = multiply_all(w3);
                w3 = fetch(row_at(begin, next + 3u, rows), own_part);
            } else {
                let a = w0;
                let b = w1;
                let c = w2;
                let d = w3;
                if next < rows {
                    w0 = fetch(row_at(begin, next, rows), own_part);
                    w1 = fetch(row_at(begin, next + 1u, rows), own_part);
                    w2 = fetch(row_at(begin, next + 2u, rows), own_part);
                    w3 = fetch(row_at(begin, next + 3u, rows), own_part);
                }
                y0 = multiply_all(a);
                y1 = multiply_all(b);
                y2 = multiply_all(c);
                y3 = multiply_all(d);
            }
            let sum = meet(y0, y1, y2, y3, at, size);
            if at < 4u * COLUMNS {
                sums[((r - base + at % 4u) * subgroups + member / size) * COLUMNS + which_column(at)] = sum;
            }
        }
        workgroupBarrier();
        let here = (end - base) / per;
        for (var i = lane; i < here * M; i += WG) {
            let m = i / here;
            let local = i % here;
            let n = begin + base / per + local;
            if GATED {
                emit_gated(m, params.first_row + n, total(2u * local, m, subgroups), total(2u * local + 1u, m, subgroups));
            } else {
                emit(group.y * M + m, params.first_row + n, total(local, m, subgroups));
            }
        }
        workgroupBarrier();
    }
}
