// y[n] = sum_k x[k] * W[n, k] for one row of x and affine weights, by integer products of 4 bytes; x may be normed
// first, y added to.
//
// Work split: each workgroup makes the planes of x in workgroup memory, then its subgroups take R rows of W at a time and
// lanes stride over k. A lane has two chunks of 32 weights on the way, of two rows or of one, and fetches a next one as
// soon as it has multiplied one: the first before the planes are made, those of other rows while sums meet. The body is
// short: between two layers its code leaves every cache.
// A norm is deferred: the gain goes into the planes, the root mean square into the sums.
// Parts: fetch_x, hold, held, fetch, multiply (planes_here with planes, product, codes_*), note_squares, norm_factor
// (norm_factor), gather2, sum_lanes (gather), emit.
// Bindings are declared by the op.
// Best between a model's other kernels, 4 bits: on an NVIDIA H200 (4.56 TB/s) 4.1 TB/s (128256 x 4096), 2.9 (4096 x
// 14336), 2.1 (4096 x 4096). Weights widened to f32 reach 1.6.
enable subgroups;

// 1 or 2.
override R: u32 = 2u;
override WG: u32 = 256u;
override NORM: bool = false;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_size) size: u32,
) {
    fetch_x(lane);
    let at = lane % size;
    let last = params.rows - 1u;
    let stride = groups.x * (WG / size) * R;
    // How far the second chunk is along a row, and a lane's next.
    let beside = (2u - R) * size;
    let step = size + beside;
    let may_end = CHUNKS % step != 0u;
    // The same for all of a subgroup, as the compiler is told: what follows is one way for all.
    var first = (group.x * (WG / size) + subgroupBroadcastFirst(lane / size)) * R;
    var w0 = fetch(min(first, last), at);
    var w1 = fetch(min(first + R - 1u, last), at + beside);

    note_squares(lane, size, hold(lane));
    workgroupBarrier();
    let factor = norm_factor(lane, size);

    for (; first < params.rows; first += stride) {
        let column = params.first_row + min(first + at % R, last);
        let added = before(0u, column);
        var sums = vec2<f32>(0.0);
        for (var c0 = 0u; c0 < CHUNKS; c0 += step) {
            let c = c0 + at;
            // What comes next: further along these rows, or the beginning of others.
            let ends = c0 + step >= CHUNKS;
            let to = select(first, first + stride, ends);
            let next = select(c + step, at, ends);
            let x = held(c, may_end);
            sums.x += multiply(w0, x);
            w0 = fetch(min(to, last), next);
            if R > 1u {
                sums.y += multiply(w1, x);
            } else {
                sums.x += multiply(w1, held(c + beside, may_end));
            }
            w1 = fetch(min(to + R - 1u, last), next + beside);
        }
        var sum = 0.0;
        if R > 1u {
            sum = gather2(sums, at, size);
        } else {
            sum = sum_lanes(sums.x, size);
        }
        if at < R && first + at < params.rows {
            y[column] = factor * sum + added;
        }
    }
}
