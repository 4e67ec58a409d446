// y[n] = sum_k x[k] * W[n, k] for one row of x and affine weights, by integer products of 4 bytes; x may be normed
// first, y added to.
//
// Work split: each workgroup makes the planes of x in workgroup memory, then its subgroups take R rows of W at a time
// and lanes stride over k in chunks of 32. The first weights are fetched before the planes are made, the next ones
// while the last are multiplied. The body is short: between two layers its code leaves every cache.
// A norm is deferred: the gain goes into the planes, the root mean square into the sums.
// Parts: make_planes (planes_here), product (planes), packed (codes_*), note_squares, norm_factor (norm_factor), gather2,
// sum_lanes (gather), emit.
// Bindings are declared by the op.
// Best between a model's other kernels, 4 bits: on an NVIDIA H200 (4.56 TB/s) 4.1 TB/s (128256 x 4096), 2.7 (4096 x
// 14336), 2.1 (4096 x 4096); on an H100 (3.1 TB/s) 2.9, 2.2, 1.8. Weights
// widened to f32 reach 1.6 on the H200.
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
    let at = lane % size;
    let last = params.rows - 1u;
    let stride = groups.x * (WG / size) * R;
    // The same for all of a subgroup, as the compiler is told: what follows is one way for all.
    var first = (group.x * (WG / size) + subgroupBroadcastFirst(lane / size)) * R;
    let c = min(at, CHUNKS - 1u);
    var w0 = packed(min(first, last), c);
    var w1 = w0;
    if R > 1u {
        w1 = packed(min(first + 1u, last), c);
    }

    note_squares(lane, size, make_planes(lane));
    workgroupBarrier();
    let factor = norm_factor(lane, size);

    for (; first < params.rows; first += stride) {
        let column = params.first_row + min(first + at % R, last);
        let added = before(0u, column);
        var sum0 = 0.0;
        var sum1 = 0.0;
        for (var c0 = 0u; c0 < CHUNKS; c0 += size) {
            let c = c0 + at;
            let a0 = w0;
            let a1 = w1;
            // What comes next: further along these rows, or the beginning of others.
            let ends = c0 + size >= CHUNKS;
            let to = select(first, first + stride, ends);
            let next_c = min(select(c + size, at, ends), CHUNKS - 1u);
            w0 = packed(min(to, last), next_c);
            if R > 1u {
                w1 = packed(min(to + 1u, last), next_c);
            }
            if CHUNKS % size == 0u || c < CHUNKS {
                let p0 = planes[c];
                let p1 = planes[CHUNKS + c];
                let p2 = planes[2u * CHUNKS + c];
                let p3 = planes[3u * CHUNKS + c];
                let s = scaling[c];
                sum0 += product(a0, p0, p1, p2, p3, s);
                if R > 1u {
                    sum1 += product(a1, p0, p1, p2, p3, s);
                }
            }
        }
        var sum = 0.0;
        if R > 1u {
            sum = gather2(vec2<f32>(sum0, sum1), at, size);
        } else {
            sum = sum_lanes(sum0, size);
        }
        if at < R && first + at < params.rows {
            y[column] = factor * sum + added;
        }
    }
}
