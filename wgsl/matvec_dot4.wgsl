// y[n] = sum_k x[k] * W[n, k] for one row of x and affine weights, by integer products of 4 bytes; x may be normed
// first, y added to.
//
// Work split: each workgroup makes the planes of x in workgroup memory, then SHARE of its subgroups at a time take two
// rows of W, and their lanes stride over k in chunks of 32. Each row's next chunk is fetched as soon as one is multiplied:
// the first before the planes are made, those of other rows while sums meet. The body is short: between two layers its
// code leaves every cache.
// A norm is deferred: the gain goes into the planes, the root mean square into the sums.
// Parts: fetch_x, hold, held, fetch, multiply (planes_here with planes, by_chunks, product, codes_*), note_squares, norm_factor
// (norm_factor, which needs sum_lanes), gather2 (gather), emit.
// Bindings are declared by the op.
// Best between a model's other kernels, 4 bits: on an NVIDIA H200 (4.56 TB/s) 4.1 TB/s (128256 x 4096), 2.8 (4096 x
// 14336), 2.0 (6144 x 4096); 4096 x 14336 of 6, 5, 3 and 2 bits 15.5, 15.5, 11.1 and 10.2 us. Weights widened to f32 reach
// 1.6 TB/s of 4 bits, 1.5 of 6, 0.9 of 3. Two subgroups that share rows of 9728 made an 8-bit 2560 x 9728 13.9 us long, one
// for each 15.9, three 14.7. More on the way than two chunks a lane gains nothing.
enable subgroups;

// Subgroups that share two rows.
override SHARE: u32 = 1u;
override WG: u32 = 256u;
override NORM: bool = false;

// Where several share rows, each subgroup's sums of both.
var<workgroup> shares: array<f32, 512>;

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
    let per_group = WG / size / SHARE * 2u;
    let stride = groups.x * per_group;
    let step = SHARE * size;
    let may_end = CHUNKS % step != 0u;
    // The same for all of a subgroup, as the compiler is told: what follows is one way for all.
    let subgroup = subgroupBroadcastFirst(lane / size);
    let begin = subgroup % SHARE * size + at;
    let pair = subgroup / SHARE * 2u;
    var first = group.x * per_group;
    var w0 = fetch(min(first + pair, last), begin);
    var w1 = fetch(min(first + pair + 1u, last), begin);

    note_squares(lane, size, hold(lane));
    workgroupBarrier();
    let factor = norm_factor(lane, size);

    for (; first < params.rows; first += stride) {
        let row = first + pair + at % 2u;
        let column = params.first_row + min(row, last);
        let added = before(0u, column);
        var sums = vec2<f32>(0.0);
        for (var c0 = 0u; c0 < CHUNKS; c0 += step) {
            // What comes next: further along these rows, or the beginning of others.
            let ends = c0 + step >= CHUNKS;
            let to = pair + select(first, first + stride, ends);
            let next = begin + select(c0 + step, 0u, ends);
            let x = held(c0 + begin, may_end);
            sums.x += multiply(w0, x);
            w0 = fetch(min(to, last), next);
            sums.y += multiply(w1, x);
            w1 = fetch(min(to + 1u, last), next);
        }
        var sum = gather2(sums, at, size);
        if SHARE > 1u {
            if at < 2u {
                shares[2u * subgroup + at] = sum;
            }
            workgroupBarrier();
            for (var i = 1u; i < SHARE; i++) {
                sum += shares[2u * min(subgroup + i, WG / size - 1u) + at % 2u];
            }
            // Shares are used before others take their place.
            if stride < params.rows {
                workgroupBarrier();
            }
        }
        if at < 2u && row < params.rows && subgroup % SHARE == 0u {
            y[column] = factor * sum + added;
        }
    }
}
