// The least of the values four(0), four(1), .. that a filter keeps: what is strictly greater comes to less than
// `wanted`, counted or weighed (in integers, so that no order of additions matters).
//
// One pass fills bins of (greatest - x), fine near the greatest; a second lists the values of the bin in which
// the threshold must lie, and ranks them. Only if they are too many for the list, four passes more take the
// bin's values apart byte by byte. Values that cannot be near the threshold are below `floor` and skipped.
// Parts: draw; NONE (likeliest).

override BINS: u32 = 1024u;
// 2^(23 - SHIFT) bins per octave of (4 + greatest - x).
override SHIFT: u32 = 15u;

const LIST: u32 = 1024u;

var<workgroup> bins: array<atomic<u32>, BINS>;
var<workgroup> list: array<u32, LIST>;
var<workgroup> listed: atomic<u32>;
var<workgroup> lowest: atomic<u32>;
var<workgroup> found: vec2<u32>;

// How far a search has come; without a unit it counts.
struct Search { floor: f32, unit: f32, level: u32, bin: u32, prefix: u32 }

fn unkey(k: u32) -> f32 {
    return bitcast<f32>(select(~k, k & 0x7fffffffu, (k & 0x80000000u) != 0u));
}

fn amount(f: Filter, s: Search, x: f32) -> u32 {
    if s.unit == 0.0 {
        return 1u;
    }
    return u32(weight(f, x) * s.unit + 0.5);
}

// The bin of a value, if the search still looks at it: greater values in lower bins.
fn bin(f: Filter, s: Search, x: f32) -> u32 {
    let k = key(x);
    if x < s.floor || k < f.least {
        return NONE;
    }
    // Compilers may add in another order, which must not make it less than 4.
    let distance = bitcast<u32>(max(4.0 + (f.greatest - x), 4.0));
    let coarse = min((distance >> SHIFT) - (0x40800000u >> SHIFT), BINS - 1u);
    if s.level == 0u {
        return coarse;
    }
    let other = s.level > 1u && (k >> ((40u - 8u * s.level) & 31u)) != s.prefix;
    return select(255u - ((k >> (32u - 8u * s.level)) & 255u), NONE, coarse != s.bin || other);
}

// "Nothing" may be counted, last of all; it weighs nothing.
fn tally(f: Filter, s: Search, x: f32) {
    let at = bin(f, s, x);
    if at != NONE {
        atomicAdd(&bins[at], amount(f, s, x));
    }
}

fn tally4(f: Filter, s: Search, x: vec4<f32>) {
    tally(f, s, x.x);
    tally(f, s, x.y);
    tally(f, s, x.z);
    tally(f, s, x.w);
}

fn clear_bins(lane: u32) {
    for (var i = lane; i < BINS; i += WG) {
        atomicStore(&bins[i], 0u);
    }
    workgroupBarrier();
}

// The bin that takes the sum from `above` to `wanted`, and the sum of all before it.
fn search(lane: u32, f: Filter, s: Search, above: u32, wanted: u32) -> vec2<u32> {
    clear_bins(lane);
    let fours = (f.n + 3u) / 4u;
    for (var i = lane; i < fours; i += 4u * WG) {
        let x = sixteen(i, WG, fours);
        tally4(f, s, x.a);
        tally4(f, s, x.b);
        tally4(f, s, x.c);
        tally4(f, s, x.d);
    }
    return cut(lane, above, wanted);
}

// The same of bins that have been filled.
fn cut(lane: u32, above: u32, wanted: u32) -> vec2<u32> {
    workgroupBarrier();
    let run = BINS / WG;
    var own = 0u;
    for (var i = 0u; i < run; i++) {
        own += atomicLoad(&bins[lane * run + i]);
    }
    let upto = above + scan_words(lane, own);
    if lane == WG - 1u {
        // What rounding leaves below `wanted` ends in the last bin.
        found = vec2<u32>(BINS - 1u, upto - atomicLoad(&bins[BINS - 1u]));
    }
    workgroupBarrier();
    if upto >= wanted && upto - own < wanted {
        var sum = upto - own;
        var at = lane * run;
        while at + 1u < (lane + 1u) * run && sum + atomicLoad(&bins[at]) < wanted {
            sum += atomicLoad(&bins[at]);
            at++;
        }
        found = vec2<u32>(at, sum);
    }
    workgroupBarrier();
    return workgroupUniformLoad(&found);
}

// Inclusive sums over the invocations.
fn scan_words(lane: u32, own: u32) -> u32 {
    indices[lane] = own;
    for (var step = 1u; step < WG; step *= 2u) {
        workgroupBarrier();
        let sum = indices[lane] + select(0u, indices[max(lane, step) - step], lane >= step);
        workgroupBarrier();
        indices[lane] = sum;
    }
    workgroupBarrier();
    return indices[lane];
}

fn note(f: Filter, s: Search, x: f32) {
    if bin(f, s, x) == s.bin {
        let at = atomicAdd(&listed, 1u);
        if at < LIST {
            list[at] = key(x);
        }
    }
}

fn note4(f: Filter, s: Search, x: vec4<f32>) {
    note(f, s, x.x);
    note(f, s, x.y);
    note(f, s, x.z);
    note(f, s, x.w);
}

// The values of a bin as they stand in the list; how many there are.
fn list_bin(lane: u32, f: Filter, s: Search) -> u32 {
    if lane == 0u {
        atomicStore(&listed, 0u);
        atomicStore(&lowest, NONE);
    }
    workgroupBarrier();
    let fours = (f.n + 3u) / 4u;
    for (var i = lane; i < fours; i += 4u * WG) {
        let x = sixteen(i, WG, fours);
        note4(f, s, x.a);
        note4(f, s, x.b);
        note4(f, s, x.c);
        note4(f, s, x.d);
    }
    workgroupBarrier();
    return agreed(lane, atomicLoad(&listed));
}

// What has been counted by all.
fn agreed(lane: u32, count: u32) -> u32 {
    if lane == 0u {
        found.x = count;
    }
    workgroupBarrier();
    return workgroupUniformLoad(&found).x;
}

// The least of the list's keys whose greater ones, with what is `before` them all, come to less than `wanted`.
fn least_listed(lane: u32, f: Filter, s: Search, count: u32, before: u32, wanted: u32) -> u32 {
    for (var i = lane; i < count; i += WG) {
        atomicStore(&bins[i], amount(f, s, unkey(list[i])));
    }
    workgroupBarrier();
    for (var i = lane; i < count; i += WG) {
        let own = list[i];
        var above = before;
        for (var j = 0u; j < count; j++) {
            above += select(0u, atomicLoad(&bins[j]), list[j] > own);
        }
        if above < wanted {
            atomicMin(&lowest, own);
        }
    }
    workgroupBarrier();
    return min(atomicLoad(&lowest), key(f.greatest));
}

// The least key that a filter keeps: what is strictly greater comes to less than `wanted`.
fn threshold(lane: u32, f: Filter, floor: f32, unit: f32, wanted: u32) -> u32 {
    var s = Search(floor, unit, 0u, 0u, 0u);
    var before = 0u;
    for (var level = 0u; level <= 4u; level++) {
        s.level = level;
        let at = search(lane, f, s, before, wanted);
        before = at.y;
        if level > 0u {
            s.prefix = (s.prefix << 8u) | (255u - min(at.x, 255u));
            continue;
        }
        s.bin = at.x;
        let count = list_bin(lane, f, s);
        if count == 0u {
            return max(f.least, key(floor)); // what rounding left below `wanted`
        }
        if count <= LIST {
            return max(f.least, least_listed(lane, f, s, count, before, wanted));
        }
    }
    return s.prefix;
}
