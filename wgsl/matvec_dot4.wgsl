// y[n] = sum_k x[k] * W[n, k] for one row of x and affine weights, by integer products of 4 bytes; x may be normed
// first, y gated or added to.
//
// 32 values of x become whole numbers v = x / s of 15 bits and a sign, kept as two planes of bytes,
// v = 256 h + l. With w = a q + b over a group,
//     sum x w = a s (256 sum h q + sum l q) + b s sum v
// exactly but for the rounding of x to s, which is at most 2^-15 of the greatest of the 32: closer than f16.
// Work split: each workgroup makes the planes of x in workgroup memory (laid out so that neighbours read
// neighbouring words); then its subgroups take R rows of W at a time, lanes stride over k in chunks of 32. The
// first weights are fetched before the planes are made, the next ones while the last are multiplied.
// A norm is deferred: the gain goes into the planes, the root mean square into the sums.
// Parts: x8 and dot8 (x_aligned), gain8 (gain, no_gain), packed and codes (codes_*), scale_at (scales), emit, widen (floats).
// Bindings are declared by the op.
// Best on an NVIDIA H200, in a chain with the 1.7 us that a dispatch waits for the one before: 4 bits 3.8 TB/s
// (128256 x 4096), 2.7 (28672 x 4096 gated), 2.0 (4096 x 14336), 1.3 (4096 x 4096); 8 bits 4.3, 3.4, 2.9, 2.1.
// Without planes, weights widened to f32, 4 bits reach 1.6, 1.3, 1.2 and 0.9.
enable subgroups;

override R: u32 = 4u;
override WG: u32 = 256u;
override NORM: bool = false;
override GATED: bool = false;

// Values of x in units of 8 and in chunks of 32.
const UNITS: u32 = params.units;
const CHUNKS: u32 = params.units / 4u;

// Codes of 4 units: the bytes of each unit in two words.
struct Codes { first: vec4<u32>, last: vec4<u32> }

// Of unit i: words of high bytes, first and last, then of low bytes; unit 4 c + j at j * CHUNKS + c.
var<workgroup> planes: array<vec4<u32>, UNITS>;
// Of each chunk: the scale, and the scale times the sum of its whole numbers.
var<workgroup> scaling: array<vec2<f32>, CHUNKS>;
var<workgroup> squares: array<f32, 128>;

fn gather_bytes(v: vec4<u32>) -> u32 {
    return (v.x & 255u) | ((v.y & 255u) << 8u) | ((v.z & 255u) << 16u) | (v.w << 24u);
}

// The bytes of 4 whole numbers: high, low.
fn split(v: vec4<i32>) -> vec2<u32> {
    let up = bitcast<vec4<u32>>(v + vec4<i32>(128));
    return vec2<u32>(gather_bytes(up >> vec4<u32>(8u)), gather_bytes(up) ^ 0x80808080u);
}

fn product(w: Packed, p0: vec4<u32>, p1: vec4<u32>, p2: vec4<u32>, p3: vec4<u32>, s: vec2<f32>) -> f32 {
    let q = codes(w);
    let high = dot4I8Packed(q.first.x, p0.x) + dot4I8Packed(q.last.x, p0.y)
        + dot4I8Packed(q.first.y, p1.x) + dot4I8Packed(q.last.y, p1.y)
        + dot4I8Packed(q.first.z, p2.x) + dot4I8Packed(q.last.z, p2.y)
        + dot4I8Packed(q.first.w, p3.x) + dot4I8Packed(q.last.w, p3.y);
    let low = dot4I8Packed(q.first.x, p0.z) + dot4I8Packed(q.last.x, p0.w)
        + dot4I8Packed(q.first.y, p1.z) + dot4I8Packed(q.last.y, p1.w)
        + dot4I8Packed(q.first.z, p2.z) + dot4I8Packed(q.last.z, p2.w)
        + dot4I8Packed(q.first.w, p3.z) + dot4I8Packed(q.last.w, p3.w);
    return w.scale * (f32(high * 256 + low) * s.x) + (w.offset + CENTRE * w.scale) * s.y;
}

// Rows of W that are taken together. Gated: R / 2 rows, then their partners.
fn rows_from(first: u32) -> vec4<u32> {
    let i = vec4<u32>(0u, 1u, 2u, 3u);
    let half = vec4<u32>(max(R / 2u, 1u));
    let partners = (i % half) + select(vec4<u32>(0u), vec4<u32>(params.n), i >= half);
    return min(vec4<u32>(first) + select(i, partners, GATED), vec4<u32>(params.rows - 1u));
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let size = subgroupAdd(1u);
    let at = lane % size;
    let step = select(R, R / 2u, GATED);
    let count = select(params.rows, params.n, GATED);
    let teams = groups.x * (WG / size);
    var first = (group.x * (WG / size) + lane / size) * step;
    let begin = rows_from(first);
    let c = min(at, CHUNKS - 1u);
    var w0 = packed(begin.x, c);
    var w1 = w0;
    var w2 = w0;
    var w3 = w0;
    if R > 1u {
        w1 = packed(begin.y, c);
    }
    if R > 2u {
        w2 = packed(begin.z, c);
        w3 = packed(begin.w, c);
    }

    var own = 0.0;
    for (var i = lane; i < UNITS; i += WG) {
        let raw = x8(0u, i);
        let gain = gain8(i);
        own += dot8(raw, raw);
        let x = mat2x4<f32>(raw[0] * gain[0], raw[1] * gain[1]);
        let pairs = max(abs(x[0]), abs(x[1]));
        var greatest = max(max(pairs.x, pairs.y), max(pairs.z, pairs.w));
        greatest = max(greatest, subgroupShuffleXor(greatest, 1u));
        greatest = max(greatest, subgroupShuffleXor(greatest, 2u));
        let inverse = select(32512.0 / greatest, 0.0, greatest < 1.0e-30);
        let a = vec4<i32>(round(x[0] * inverse));
        let b = vec4<i32>(round(x[1] * inverse));
        let four = a + b;
        var sum = four.x + four.y + four.z + four.w;
        sum += subgroupShuffleXor(sum, 1u);
        sum += subgroupShuffleXor(sum, 2u);
        let first = split(first4(a, b));
        let last = split(last4(a, b));
        planes[(i & 3u) * CHUNKS + (i >> 2u)] = vec4<u32>(first.x, last.x, first.y, last.y);
        if (i & 3u) == 0u {
            let scale = greatest / 32512.0;
            scaling[i >> 2u] = vec2<f32>(scale, scale * f32(sum));
        }
    }
    var factor = 1.0;
    if NORM {
        own = subgroupAdd(own);
        if lane % size == 0u {
            squares[lane / size] = own;
        }
    }
    workgroupBarrier();
    if NORM {
        var total = 0.0;
        for (var i = at; i < WG / size; i += size) {
            total += squares[i];
        }
        total = subgroupAdd(total);
        factor = inverseSqrt(total / f32(params.k) + params.eps);
    }

    for (; first < count; first += teams * step) {
        let row = rows_from(first);
        let next = rows_from(first + teams * step);
        let column = params.first_row + min(first + at % step, count - 1u);
        var added = 0.0;
        if !GATED {
            added = before(0u, column);
        }
        var sums = vec4<f32>(0.0);
        for (var c0 = 0u; c0 < CHUNKS; c0 += size) {
            let c = c0 + at;
            let a0 = w0;
            let a1 = w1;
            let a2 = w2;
            let a3 = w3;
            // What comes next: further along these rows, or the beginning of others.
            let ends = c0 + size >= CHUNKS;
            let to = select(row, next, ends);
            let next_c = min(select(c + size, at, ends), CHUNKS - 1u);
            w0 = packed(to.x, next_c);
            if R > 1u {
                w1 = packed(to.y, next_c);
            }
            if R > 2u {
                w2 = packed(to.z, next_c);
                w3 = packed(to.w, next_c);
            }
            if c < CHUNKS {
                let p0 = planes[c];
                let p1 = planes[CHUNKS + c];
                let p2 = planes[2u * CHUNKS + c];
                let p3 = planes[3u * CHUNKS + c];
                let s = scaling[c];
                sums.x += product(a0, p0, p1, p2, p3, s);
                if R > 1u {
                    sums.y += product(a1, p0, p1, p2, p3, s);
                }
                if R > 2u {
                    sums.z += product(a2, p0, p1, p2, p3, s);
                    sums.w += product(a3, p0, p1, p2, p3, s);
                }
            }
        }
        sums = subgroupAdd(sums) * factor;
        if at < step && first + at < count {
            if GATED {
                let up = select(sums.y, select(sums.z, sums.w, at == 1u), R == 4u);
                emit_gated(0u, first + at, select(sums.x, sums.y, at == 1u), up);
            } else {
                let value = select(select(sums.x, sums.y, at == 1u), select(sums.z, sums.w, at == 3u), at > 1u);
                y[column] = value + added;
            }
        }
    }
}
