// Logical row places[t].x + places[t].y of the cache = codes and scales of H ((rows[t, :] - c) f), centres c of keys and
// factors f being rows of the basis, if there is one, else f the fixed signs; rows past the end are skipped.
//
// A row holds the codes of all heads, then their scales. 32 values take BITS words, planes of 8, 4, 2 and 1
// bits: value 4 j + l is in byte l. A group's scale is reach * max |x|, rounded to f16, and
// code u is of values from scale * (u - edge) on: those products are exact, so every machine finds the same.
// AFFINE: no rotation; x = scale * u + bias, both f32.
//
// Work split: a workgroup takes two heads of a token, whose scales fill whole words.
// Parts: row_at (pages); word_at (tiled_words); sign_of (signs), walsh (walsh); to_half (pack).

struct Params {
    tokens: u32, heads: u32, d: u32, words: u32, logical: u32, capacity: u32, stride: u32, edge: f32, reach: f32,
    norm: f32,
}

@group(0) @binding(0) var<storage, read> rows: array<f32>;
@group(0) @binding(1) var<storage, read> places: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> table: array<u32>;
@group(0) @binding(3) var<storage, read> basis: array<f32>;
@group(0) @binding(4) var<storage, read_write> cache: array<u32>;
@group(0) @binding(5) var<uniform> params: Params;

override BITS: u32 = 4u;
override GROUP: u32 = 64u;
override AFFINE: u32 = 0u;
// Words of codes that a row has side by side.
override EACH: u32 = 1u;
override BASIS: u32 = 0u;
// Whether what is first in the basis is taken off; its row of factors.
override CENTRED: u32 = 0u;
override ROW: u32 = 0u;

// Of the groups of two heads: scale and its inverse, or scale and bias.
var<workgroup> scales: array<vec2<f32>, 16>;
var<workgroup> codes: array<u32, 512>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let pairs = (params.heads + 1u) / 2u;
    let index = group.y * params.stride + group.x;
    let t = index / pairs;
    if t >= params.tokens {
        return;
    }
    let at = places[t].x + places[t].y;
    if at >= params.logical {
        return;
    }
    let row = row_at(at);
    if row >= params.capacity {
        return;
    }
    let d = params.d;
    let head = 2u * (index % pairs);
    let count = min(2u, params.heads - head);
    let size = count * d;
    for (var i = lane; i < size; i += WG) {
        var value = rows[(t * params.heads + head) * d + i];
        if CENTRED == 1u {
            value -= basis[head * d + i];
        }
        if BASIS == 1u {
            value *= basis[(ROW * params.heads + head) * d + i];
        } else if AFFINE == 0u {
            value *= sign_of(i % d);
        }
        values[i] = value;
    }
    workgroupBarrier();
    if AFFINE == 0u {
        walsh(lane, size, d);
        for (var i = lane; i < size; i += WG) {
            values[i] *= params.norm;
        }
        workgroupBarrier();
    }

    let groups = (d + GROUP - 1u) / GROUP;
    if lane < count * groups {
        let begin = (lane / groups) * d + (lane % groups) * GROUP;
        let end = min(begin + GROUP, (lane / groups + 1u) * d);
        var low = values[begin];
        var high = low;
        for (var i = begin + 1u; i < end; i++) {
            low = min(low, values[i]);
            high = max(high, values[i]);
        }
        scales[lane] = select(grid(max(high, -low)), affine(low, high), AFFINE == 1u);
    }
    workgroupBarrier();

    for (var i = lane; i < size; i += WG) {
        let scale = scales[(i / d) * groups + (i % d) / GROUP];
        codes[i] = select(code(values[i], scale), affine_code(values[i], scale), AFFINE == 1u);
    }
    workgroupBarrier();

    let blocks = (d + 31u) / 32u;
    let to = head * blocks * BITS;
    for (var w = lane; w < count * blocks * BITS; w += WG) {
        let own = w / (blocks * BITS);
        let word = w % BITS;
        cache[word_at(row, params.words, to + w, EACH)] = packed(own * d, (w / BITS) % blocks * 32u, word);
    }
    let scales_to = params.heads * blocks * BITS;
    if AFFINE == 1u {
        if lane < count * groups {
            let at = scales_to + 2u * (head * groups + lane);
            cache[word_at(row, params.words, at, 1u)] = bitcast<u32>(scales[lane].x);
            cache[word_at(row, params.words, at + 1u, 1u)] = bitcast<u32>(scales[lane].y);
        }
    } else if 2u * lane < count * groups {
        var word = to_half(scales[2u * lane].x);
        if 2u * lane + 1u < count * groups {
            word |= to_half(scales[2u * lane + 1u].x) << 16u;
        }
        cache[word_at(row, params.words, scales_to + head * groups / 2u + lane, 1u)] = word;
    }
}

fn grid(most: f32) -> vec2<f32> {
    let scale = unpack2x16float(to_half(most * params.reach)).x;
    return vec2<f32>(scale, select(0.0, 1.0 / max(scale, 1.0e-8), scale > 0.0));
}

fn code(x: f32, scale: vec2<f32>) -> u32 {
    let top = f32((1u << BITS) - 1u);
    var u = clamp(floor(x * scale.y + params.edge), 0.0, top);
    // The quotient may be off by a rounding; these products are not.
    if x >= scale.x * (u + 1.0 - params.edge) {
        u += 1.0;
    }
    if x < scale.x * (u - params.edge) {
        u -= 1.0;
    }
    return u32(clamp(u, 0.0, top));
}

// Division may be off by a rounding or two; what it leaves mends that. Halves of 12 bits have exact products, so that is
// found exactly whether or not a machine fuses them with sums.
fn divided(x: f32, d: f32) -> f32 {
    let q = x / d;
    let q1 = bitcast<f32>(bitcast<u32>(q) & 0xfffff000u);
    let d1 = bitcast<f32>(bitcast<u32>(d) & 0xfffff000u);
    let q2 = q - q1;
    let d2 = d - d1;
    return q + (x - q1 * d1 - q1 * d2 - q2 * d1 - q2 * d2) / d;
}

fn affine(low: f32, high: f32) -> vec2<f32> {
    let side = abs(low) > abs(high);
    let edge = select(high, low, side);
    let step = max(divided(high - low, f32((1u << BITS) - 1u)), 1.0e-7);
    let signed_step = select(-step, step, side);
    let whole = round(divided(edge, signed_step));
    if whole == 0.0 {
        return vec2<f32>(signed_step, 0.0);
    }
    return vec2<f32>(divided(edge, whole), edge);
}

fn affine_code(x: f32, scale: vec2<f32>) -> u32 {
    return u32(clamp(round(divided(x - scale.y, scale.x)), 0.0, f32((1u << BITS) - 1u)));
}

// A word of the 32 codes from `first` on of the head at `base`.
fn packed(base: u32, first: u32, word: u32) -> u32 {
    var width = 8u;
    var start = 0u;
    // The plane that the word is of.
    while (BITS & width) == 0u || word >= start + width {
        start += BITS & width;
        width /= 2u;
    }
    let shift = BITS & ~(2u * width - 1u);
    let per_word = 32u / width;
    var result = 0u;
    for (var i = 0u; i < per_word; i++) {
        let at = first + (word - start) * per_word + i;
        if at < params.d {
            let bits = (codes[base + at] >> shift) & ((1u << width) - 1u);
            result |= bits << (width * (i / 4u) + 8u * (i % 4u));
        }
    }
    return result;
}
