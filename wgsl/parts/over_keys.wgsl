// Attention of up to HEADS query heads over stored keys, a workgroup's share of them. LANES neighbours of its WG
// invocations cover a head, 8 values each; so WG / LANES parts take keys, four at a time, and every query head uses a
// key and a value once loaded. Queries, maxima and sums stay in registers, and no barrier stands between keys.
// Needs first_key, end_key, window_start, share (key_range); first_new (first_new); page_of, PAGE (pages); Eight,
// place_of, key_at, value_at, Queries, scores, unit_of, weighted, numbers8 (floats8 or packed8 with queries_*);
// across4, spread4, base_lane, any_lane (lanes_*).

// Invocations that cover a head: its values / 8, rounded up to a power of two, at least 8.
override LANES: u32 = 16u;
// Query heads of a workgroup, 1 to 4.
override HEADS: u32 = 4u;
// Tokens of the step.
override TOKENS: u32 = 1u;
override WG: u32 = 128u;
// Whether values are fetched as early as keys, where they take few registers.
override EARLY: u32 = 0u;
// By how much a score may exceed what weights are relative to before sums are rescaled.
const SLACK: f32 = 8.0;

// A workgroup's share of what the token at place `here` sees: positions from low to high, which are in the cache
// before `stored`, and if `fresh` the keys of this step; `start` is the first position that the token sees, `last` the
// last that may be read.
struct Range { here: vec2<u32>, low: u32, high: u32, stored: u32, last: u32, start: u32, fresh: bool }

fn range_of(t: u32, split: u32, splits: u32) -> Range {
    let here = places[t];
    let begin = first_key(here);
    let end = end_key(here);
    let size = share(end - begin, splits);
    let low = min(begin + split * size, end);
    let high = min(low + size, end);
    let stored = min(high, first_new(here));
    let fresh = here.x < end && (splits == 1u || split == (end - begin + size - 1u) / size);
    return Range(here, low, high, stored, max(stored, 1u) - 1u, window_start(here), fresh);
}

// Four keys or values of a part, as they are stored.
struct Four { a: Eight, b: Eight, c: Eight, d: Eight }

// Where they are: from position j on, a multiple of 4, none past the last, in the page whose first row is `page`.
fn places_of(page: u32, j: u32, last: u32, h: u32, c: u32) -> vec4<u32> {
    let rows = min(vec4<u32>(j) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(last)) % PAGE + page;
    return vec4<u32>(place_of(rows.x, h, c), place_of(rows.y, h, c), place_of(rows.z, h, c), place_of(rows.w, h, c));
}

fn four_keys(at: vec4<u32>, h: u32, c: u32) -> Four {
    return Four(key_at(at.x, h, c), key_at(at.y, h, c), key_at(at.z, h, c), key_at(at.w, h, c));
}

fn four_values(at: vec4<u32>, h: u32, c: u32) -> Four {
    return Four(value_at(at.x, h, c), value_at(at.y, h, c), value_at(at.z, h, c), value_at(at.w, h, c));
}

// A part's first keys and values, and the page of the next.
struct Ahead { k: Four, v: Four, page: u32 }

// They can be on their way while queries are made ready.
fn fetch_ahead(r: Range, part: u32, h: u32, c: u32) -> Ahead {
    let j = r.low + 4u * part;
    let at = places_of(page_of(r.here.y + min(j, r.last)), j, r.last, h, c);
    return Ahead(four_keys(at, h, c), four_values(at, h, c), page_of(r.here.y + min(j + STEP, r.last)));
}

// What an invocation has found: sums of its 8 values of each query head and of weights, relative to exp(greatest).
struct Found { a: mat2x4<f32>, b: mat2x4<f32>, c: mat2x4<f32>, d: mat2x4<f32>, greatest: vec4<f32>, total: vec4<f32> }

// With one more key, whose scores all lanes know, if it counts for this part.
fn with_key(before: Found, score: vec4<f32>, value: mat2x4<f32>, counts: bool) -> Found {
    let higher = select(before.greatest, max(before.greatest, score), counts);
    let decay = exp(before.greatest - higher);
    let weight = select(vec4<f32>(0.0), exp(score - higher), counts);
    return Found(
        decay.x * before.a + weight.x * value,
        decay.y * before.b + weight.y * value,
        decay.z * before.c + weight.z * value,
        decay.w * before.d + weight.w * value,
        higher,
        decay * before.total + weight,
    );
}

// All stored keys. Those of a tile are on their way while the tile before is used, and the page that a part's keys are
// in, a tile before them.
fn over_keys(lane: u32, h: u32, c: u32, r: Range, q: Queries, ahead: Ahead) -> Found {
    let part = lane / LANES;
    let base = base_lane(lane);
    let unit = unit_of(q);
    var a0 = mat2x4<f32>();
    var a1 = mat2x4<f32>();
    var a2 = mat2x4<f32>();
    var a3 = mat2x4<f32>();
    var greatest = vec4<f32>(-3.0e38);
    var total = vec4<f32>(0.0);
    var k = ahead.k;
    var v = ahead.v;
    var page = ahead.page;
    // Of four keys, the one whose score this invocation ends up with.
    let upper = (c & (LANES / 2u)) != 0u;
    let odd = (c & (LANES / 4u)) != 0u;
    let own = 4u * part + select(0u, 2u, upper) + select(0u, 1u, odd);
    for (var tile = r.low; tile < r.stored; tile += STEP) {
        let s0 = scores(q, k.a, h, c);
        let s1 = scores(q, k.b, h, c);
        let s2 = scores(q, k.c, h, c);
        let s3 = scores(q, k.d, h, c);
        let at = places_of(page, tile + STEP + 4u * part, r.last, h, c);
        page = page_of(r.here.y + min(tile + 2u * STEP + 4u * part, r.last));
        k = four_keys(at, h, c);
        var next_v = v;
        if EARLY == 1u {
            next_v = four_values(at, h, c);
        }
        // Sums over the lanes, each half of which goes on with half of the keys.
        let even_sum = select(s0, s2, upper) + across4(lane, select(s2, s0, upper), LANES / 2u);
        let odd_sum = select(s1, s3, upper) + across4(lane, select(s3, s1, upper), LANES / 2u);
        var score = select(even_sum, odd_sum, odd) + across4(lane, select(odd_sum, even_sum, odd), LANES / 4u);
        for (var distance = LANES / 8u; distance > 0u; distance /= 2u) {
            score += across4(lane, score, distance);
        }
        let seen = tile + own >= r.start && tile + own < r.stored;
        score = select(vec4<f32>(-3.0e38), unit * score, seen);
        if any_lane(any(score > greatest + SLACK)) {
            var higher = max(greatest, score);
            higher = max(higher, across4(lane, higher, LANES / 2u));
            higher = max(higher, across4(lane, higher, LANES / 4u));
            let decay = exp(greatest - higher);
            greatest = higher;
            total *= decay;
            a0 *= decay.x;
            a1 *= decay.y;
            a2 *= decay.z;
            a3 *= decay.w;
        }
        let weight = select(vec4<f32>(0.0), exp(score - greatest), seen);
        total += weight;
        let weights = spread4(lane, base, weight);
        let w0 = weighted(weights[0], v.a, h, c);
        let x0 = numbers8(v.a, c);
        a0 += w0.x * x0;
        a1 += w0.y * x0;
        a2 += w0.z * x0;
        a3 += w0.w * x0;
        let w1 = weighted(weights[1], v.b, h, c);
        let x1 = numbers8(v.b, c);
        a0 += w1.x * x1;
        a1 += w1.y * x1;
        a2 += w1.z * x1;
        a3 += w1.w * x1;
        let w2 = weighted(weights[2], v.c, h, c);
        let x2 = numbers8(v.c, c);
        a0 += w2.x * x2;
        a1 += w2.y * x2;
        a2 += w2.z * x2;
        a3 += w2.w * x2;
        let w3 = weighted(weights[3], v.d, h, c);
        let x3 = numbers8(v.d, c);
        a0 += w3.x * x3;
        a1 += w3.y * x3;
        a2 += w3.z * x3;
        a3 += w3.w * x3;
        if EARLY == 0u {
            next_v = four_values(at, h, c);
        }
        v = next_v;
    }
    // Every quarter of a part's lanes has counted its own keys.
    total += across4(lane, total, LANES / 2u);
    total += across4(lane, total, LANES / 4u);
    return Found(a0, a1, a2, a3, greatest, total);
}
