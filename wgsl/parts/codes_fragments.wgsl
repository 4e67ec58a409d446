// Packed keys and values as factors of fragment products. A code is a half as it stands, u 2^-24, for halves are numbers
// from their first bit on; it ends at the eighth bit, for products are added up to 24 bits or so below what a half's
// last bits could be. Zeros of codes are taken off sums of products.
// The arrays of keys and values are of types that have tiles, heads and groups: so NVIDIA's compiler knows what is at
// constant distances, which sums of words would not tell.
// Needs key16, key_scales, quad8, value_scales (generated); GROUPS (packed8); codes_of (codes8); KEY_BITS, VALUE_BITS (fresh8);
// fragment_product, fragment_pairs (fragments); Place (over_tiles); Own (queries_halves); Four (by_fragments).

const IS_SCALED: bool = true;
// What codes are too small by: 2^24, less what they are further up.
override KEY_UNIT: f32 = f32(1u << (16u + KEY_BITS));
override VALUE_UNIT: f32 = f32(1u << (16u + VALUE_BITS));
override KEY_ZERO: f32 = select(f32(1u << (KEY_BITS - 1u)) - 0.5, 128.0, KEY_BITS == 8u) / KEY_UNIT;
override VALUE_ZERO: f32 = select(f32(1u << (VALUE_BITS - 1u)) - 0.5, 128.0, VALUE_BITS == 8u);

// The bits of a code, in both halves of a word.
override KEY_MASK: u32 = 0x00010001u * (256u - (256u >> KEY_BITS));
override VALUE_MASK: u32 = 0x00010001u * (256u - (256u >> VALUE_BITS));

// 16 codes of each group of two keys, and the words that their scales are in.
struct Keys { near: vec4<u32>, far: vec4<u32>, more_near: vec4<u32>, more_far: vec4<u32>, scales: vec2<u32> }

fn keys_at(p: Place, h: u32, lane: u32) -> Keys {
    let t = lane & 3u;
    let g = (lane & 31u) / 4u;
    let tile = p.row / 16u;
    let first = key16(tile, g, h, 0u, t);
    var k = Keys();
    k.near = first.near;
    k.far = first.far;
    if GROUPS == 2u {
        let last = key16(tile, g, h, 1u, t);
        k.more_near = last.near;
        k.more_far = last.far;
    }
    k.scales = key_scales(tile, g, h * GROUPS / 2u);
    return k;
}

fn arrived_with(k: Keys) -> u32 {
    return k.scales.x;
}

// The lane of a part that has lane t's values number 8 i and on.
fn share(t: u32, i: u32) -> u32 {
    return 8u * (i / 2u) + 2u * t + i % 2u;
}

// 8 values in the order in which products come to them.
fn half_pairs(q: mat2x4<f32>) -> vec4<u32> {
    if KEY_BITS == 8u {
        return vec4<u32>(
            pack2x16float(q[0].xz), pack2x16float(q[0].yw), pack2x16float(q[1].xz), pack2x16float(q[1].yw),
        );
    }
    return vec4<u32>(
        pack2x16float(q[0].xz), pack2x16float(q[1].xz), pack2x16float(q[0].yw), pack2x16float(q[1].yw),
    );
}

// Of 16 codes of two keys with the queries; `zero` is taken off.
fn with_codes(near: vec4<u32>, far: vec4<u32>, q: vec4<u32>, r: vec4<u32>, zero: f32, lane: u32) -> vec2<f32> {
    let mask = vec4<u32>(KEY_MASK);
    var sum = vec4<f32>(zero, 0.0, zero, 0.0);
    if KEY_BITS == 8u {
        let a = vec4<u32>(near.x, near.x >> 8u, far.x, far.x >> 8u);
        let b = vec4<u32>(near.y, near.y >> 8u, far.y, far.y >> 8u);
        let c = vec4<u32>(near.z, near.z >> 8u, far.z, far.z >> 8u);
        let d = vec4<u32>(near.w, near.w >> 8u, far.w, far.w >> 8u);
        sum = fragment_product(a & mask, q.xy, sum, lane);
        sum = fragment_product(b & mask, q.zw, sum, lane);
        sum = fragment_product(c & mask, r.xy, sum, lane);
        sum = fragment_product(d & mask, r.zw, sum, lane);
    } else {
        let x = vec4<u32>(near.xy, far.xy);
        let y = x >> vec4<u32>(8u);
        let a = vec4<u32>(x.x << 4u, x.x, x.z << 4u, x.z);
        let b = vec4<u32>(y.x << 4u, y.x, y.z << 4u, y.z);
        let c = vec4<u32>(x.y << 4u, x.y, x.w << 4u, x.w);
        let d = vec4<u32>(y.y << 4u, y.y, y.w << 4u, y.w);
        sum = fragment_product(a & mask, q.xy, sum, lane);
        sum = fragment_product(b & mask, q.zw, sum, lane);
        sum = fragment_product(c & mask, r.xy, sum, lane);
        sum = fragment_product(d & mask, r.zw, sum, lane);
    }
    return vec2<f32>(sum.x + sum.y, sum.z + sum.w);
}

// Scales of both groups of a head.
fn scales_in(word: u32, h: u32) -> vec2<f32> {
    let both = unpack2x16float(word);
    return select(both, both.yy, GROUPS == 1u && (h & 1u) == 1u);
}

// `arrived` is 0, and of use to others.
fn scores_of(k: Keys, own: Own, arrived: u32, h: u32, lane: u32) -> Score {
    let near = scales_in(k.scales.x, h);
    let far = scales_in(k.scales.y, h);
    var score = vec2<f32>(near.x, far.x) * with_codes(k.near, k.far, own.a, own.b, own.zeros.x, lane);
    if GROUPS == 2u {
        score +=
            vec2<f32>(near.y, far.y) * with_codes(k.more_near, k.more_far, own.c, own.d, own.zeros.y, lane);
    }
    return own.unit * score;
}

// 8 codes of four values, and those of another group; scales of the values that are this lane's keys'.
struct Quad { a: vec2<u32>, b: vec2<u32>, c: vec2<u32>, d: vec2<u32> }
struct Values { first: Quad, last: Quad, scales: vec2<u32> }

fn values_at(p: Place, h: u32, lane: u32) -> Values {
    let g = (lane & 31u) / 4u;
    let t = lane & 3u;
    let tile = p.row / 16u;
    var v = Values();
    v.first = quad8(tile, t, h, 0u, g);
    if GROUPS == 2u {
        v.last = quad8(tile, t, h, 1u, g);
    }
    v.scales = value_scales(tile, g, h * GROUPS / 2u);
    return v;
}

// What is not seen may have any scale.
fn seen_scales(v: Values, seen: vec2<bool>, h: u32) -> mat2x2<f32> {
    let words = select(vec2<u32>(), v.scales, seen);
    return mat2x2<f32>(scales_in(words.x, h), scales_in(words.y, h));
}

fn greatest_scale(v: Values, seen: vec2<bool>, h: u32) -> vec2<f32> {
    let scales = seen_scales(v, seen, h);
    return vec2<f32>(max(scales[0].x, scales[0].y), max(scales[1].x, scales[1].y));
}

// Weights of two keys times the scales of their values.
struct Weights { first: vec2<f32>, last: vec2<f32> }

fn weights_of(v: Values, weight: vec2<f32>, seen: vec2<bool>, h: u32) -> Weights {
    let scales = transpose(seen_scales(v, seen, h));
    return Weights(weight * scales[0], weight * scales[1]);
}

// Four tiles of rows with values of a tile: row g of the i-th is value i of lane c, row g + 8 value 4 + i.
fn with_four(before: Four, v: Quad, weights: vec2<u32>, c: u32, lane: u32) -> Four {
    var first = vec4<u32>();
    var second = vec4<u32>();
    var third = vec4<u32>();
    var fourth = vec4<u32>();
    if VALUE_BITS == 4u {
        let p = fragment_pairs(v.a.x, v.b.x);
        let q = fragment_pairs(v.c.x, v.d.x);
        first = vec4<u32>(p.x << 4u, q.x << 4u, p.x, q.x);
        let r = vec4<u32>(p, q) >> vec4<u32>(8u);
        second = vec4<u32>(r.x << 4u, r.z << 4u, r.x, r.z);
        third = vec4<u32>(p.y << 4u, q.y << 4u, p.y, q.y);
        fourth = vec4<u32>(r.y << 4u, r.w << 4u, r.y, r.w);
    } else {
        let one = codes_of(v.a, c, VALUE_BITS);
        let two = codes_of(v.b, c, VALUE_BITS);
        let three = codes_of(v.c, c, VALUE_BITS);
        let four = codes_of(v.d, c, VALUE_BITS);
        let p = fragment_pairs(one.x, two.x);
        let q = fragment_pairs(three.x, four.x);
        let r = fragment_pairs(one.y, two.y);
        let s = fragment_pairs(three.y, four.y);
        let low = vec4<u32>(p.x, q.x, r.x, s.x);
        let high = vec4<u32>(p.y, q.y, r.y, s.y);
        first = low << vec4<u32>(8u - VALUE_BITS);
        second = low >> vec4<u32>(VALUE_BITS);
        third = high << vec4<u32>(8u - VALUE_BITS);
        fourth = high >> vec4<u32>(VALUE_BITS);
    }
    let mask = vec4<u32>(VALUE_MASK);
    return Four(
        fragment_product(first & mask, weights, before.a, lane),
        fragment_product(second & mask, weights, before.b, lane),
        fragment_product(third & mask, weights, before.c, lane),
        fragment_product(fourth & mask, weights, before.d, lane),
    );
}

// Sums of 8 values of lane c, of weights whose sum is `taken`.
fn numbers_of(x: Four, taken: f32) -> mat2x4<f32> {
    let first = vec4<f32>(x.a.x + x.a.y, x.b.x + x.b.y, x.c.x + x.c.y, x.d.x + x.d.y);
    let last = vec4<f32>(x.a.z + x.a.w, x.b.z + x.b.w, x.c.z + x.c.w, x.d.z + x.d.w);
    let zero = vec4<f32>(VALUE_ZERO * taken);
    return mat2x4<f32>(VALUE_UNIT * first - zero, VALUE_UNIT * last - zero);
}
