// y[n] = sum_k x[k] * W[n, k] for one row of x, which is held in registers while rows of W stream past; x may be
// normed first, y gated or added to.
//
// Work split: TEAM invocations share a row of W, each with its own few values of x, the same for every row. A
// workgroup of one or more teams takes an even share of the rows; each team takes ROWS of them at a time and fetches as
// many more before it multiplies, or each as soon as one is multiplied. Sums of a subgroup meet by shuffles, those of a
// team in workgroup memory at the end, where the workgroup's results are stored.
// A norm is deferred: the gain goes into x, the root mean square into the results.
// Parts: fetch_x, hold, held, fetch, multiply (planes_here with planes, by_chunks, product, codes_*; held_floats with weight_*),
// note_squares, norm_factor (norm_factor); own_results, row_at (own_rows); gather, emit.
// Bindings are declared by the op.
// Best between a model's other kernels, on an NVIDIA H100 (3.1 TB/s): bf16 3.06 TB/s (128256 x 4096), 2.9 (28672 x
// 4096 gated), 2.8 (4096 x 14336), 2.5 (6144 x 4096 normed). Gated on an H200 (4.56 TB/s): 8 bits 3.9, 6 bits 3.5, 4 bits
// 3.3, 3 bits 2.5, 2 bits 2.1; as many rows fetched before as are multiplied 3.65 and 3.2 of 8 and 4 bits, for all registers
// are in use, and so half as much is on its way. Dense weights lose 1.5% if replaced one by one. What is left are ends: some
// 4 us a matrix from the first fetch to the last store, of which x takes nothing and the meeting at the end 0.5.
enable subgroups;
// Teams are whole subgroups, so loops over a team's rows are uniform in each.
diagnostic(off, subgroup_uniformity);

override WG: u32 = 256u;
override TEAM: u32 = 128u;
// 2 or 4.
override ROWS: u32 = 4u;
// Whether each row is replaced by the next as soon as it is multiplied.
override REFILL: bool = false;
override NORM: bool = false;
override GATED: bool = false;

// Of each row of the workgroup's and each subgroup of its team.
var<workgroup> sums: array<f32, params.sums>;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_size) size: u32,
) {
    fetch_x(lane);
    let at = lane % size;
    let member = lane % TEAM;
    let per = select(1u, 2u, GATED);
    let own = own_results(group.x, groups.x);
    let begin = own.x;
    let results = own.y;
    let rows = results * per;
    // The same for all of a subgroup, as the compiler is told: what follows is one way for all.
    var r = subgroupBroadcastFirst(lane / TEAM) * ROWS;
    var w0 = fetch(row_at(begin, r, rows), member);
    var w1 = fetch(row_at(begin, r + 1u, rows), member);
    var w2 = w0;
    var w3 = w0;
    if ROWS > 2u {
        w2 = fetch(row_at(begin, r + 2u, rows), member);
        w3 = fetch(row_at(begin, r + 3u, rows), member);
    }
    let first = params.first_row + begin + min(lane, results - 1u);
    var added = 0.0;
    if !GATED {
        added = before(0u, first);
    }

    note_squares(lane, size, hold(lane));
    workgroupBarrier();
    let x = held(member, true);
    // Known before the first rows are here.
    let factor = norm_factor(lane, size);

    for (; r < rows; r += (WG / TEAM) * ROWS) {
        let next = r + (WG / TEAM) * ROWS;
        var products = vec4<f32>(0.0);
        if REFILL {
            products.x = multiply(w0, x);
            w0 = fetch(row_at(begin, next, rows), member);
            products.y = multiply(w1, x);
            w1 = fetch(row_at(begin, next + 1u, rows), member);
            if ROWS > 2u {
                products.z = multiply(w2, x);
                w2 = fetch(row_at(begin, next + 2u, rows), member);
                products.w = multiply(w3, x);
                w3 = fetch(row_at(begin, next + 3u, rows), member);
            }
        } else {
            let a = w0;
            let b = w1;
            let c = w2;
            let d = w3;
            if next < rows {
                w0 = fetch(row_at(begin, next, rows), member);
                w1 = fetch(row_at(begin, next + 1u, rows), member);
                if ROWS > 2u {
                    w2 = fetch(row_at(begin, next + 2u, rows), member);
                    w3 = fetch(row_at(begin, next + 3u, rows), member);
                }
            }
            products.x = multiply(a, x);
            products.y = multiply(b, x);
            if ROWS > 2u {
                products.z = multiply(c, x);
                products.w = multiply(d, x);
            }
        }
        let sum = gather(products, at, size);
        let row = r + which_row(at);
        if at < 4u && which_row(at) < ROWS && row < rows {
            sums[row * (TEAM / size) + member / size] = sum;
        }
    }
    workgroupBarrier();

    for (var i = lane; i < results; i += WG) {
        let n = params.first_row + begin + i;
        if GATED {
            emit_gated(0u, n, factor * team_sum(2u * i, size), factor * team_sum(2u * i + 1u, size));
        } else {
            if i >= WG {
                added = before(0u, n);
            }
            y[n] = factor * team_sum(i, size) + added;
        }
        // As a rule once around: known before, that is a quarter of the code.
        if params.sums / (per * (TEAM / size)) <= WG {
            break;
        }
    }
}

fn team_sum(row: u32, size: u32) -> f32 {
    var sum = 0.0;
    for (var i = 0u; i < TEAM / size; i++) {
        sum += sums[row * (TEAM / size) + i];
    }
    return sum;
}
