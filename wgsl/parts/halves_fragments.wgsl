// f16 keys and values as factors of fragment products.
// Needs keys, values, Eight (cache8_f16); fragment_product, fragment_pairs (fragments); Place (over_tiles); Own
// (queries_halves); Four (by_fragments).

const IS_SCALED: bool = false;
const KEY_UNIT: f32 = 1.0;
const KEY_ZERO: f32 = 0.0;

fn place_of(row: u32, h: u32, c: u32) -> u32 {
    return (row * params.kv_heads + h) * params.eights + min(c, params.eights - 1u);
}

// 8 values each of two keys: near and far.
struct Keys {
    near_a: Eight, far_a: Eight,
    near_b: Eight, far_b: Eight,
    near_c: Eight, far_c: Eight,
    near_d: Eight, far_d: Eight,
}

fn keys_at(p: Place, h: u32, lane: u32) -> Keys {
    let first = (lane & 28u) / 2u;
    let near = place_of(p.row + min(first, p.most), h, lane & 3u);
    let far = place_of(p.row + min(first + 1u, p.most), h, lane & 3u);
    var k = Keys();
    k.near_a = keys[near];
    k.far_a = keys[far];
    k.near_b = keys[near + 4u];
    k.far_b = keys[far + 4u];
    if LANES == 16u {
        k.near_c = keys[near + 8u];
        k.far_c = keys[far + 8u];
        k.near_d = keys[near + 12u];
        k.far_d = keys[far + 12u];
    }
    return k;
}

fn arrived_with(k: Keys) -> u32 {
    return k.near_a.x;
}

// The lane of a part that has lane t's values number 8 i and on.
fn share(t: u32, i: u32) -> u32 {
    return 4u * i + t;
}

// 8 values in the order in which products come to them.
fn half_pairs(q: mat2x4<f32>) -> vec4<u32> {
    return vec4<u32>(
        pack2x16float(q[0].xy), pack2x16float(q[0].zw), pack2x16float(q[1].xy), pack2x16float(q[1].zw),
    );
}

fn with_eight(before: vec4<f32>, near: Eight, far: Eight, q: vec4<u32>, lane: u32) -> vec4<f32> {
    let sum = fragment_product(vec4<u32>(near.xy, far.xy), q.xy, before, lane);
    return fragment_product(vec4<u32>(near.zw, far.zw), q.zw, sum, lane);
}

// `arrived` is 0, and of use to others.
fn scores_of(k: Keys, own: Own, arrived: u32, h: u32, lane: u32) -> Score {
    var sum = with_eight(vec4<f32>(), k.near_a, k.far_a, own.a, lane);
    sum = with_eight(sum, k.near_b, k.far_b, own.b, lane);
    if LANES == 16u {
        sum = with_eight(sum, k.near_c, k.far_c, own.c, lane);
        sum = with_eight(sum, k.near_d, k.far_d, own.d, lane);
    }
    return own.unit * vec2<f32>(sum.x + sum.y, sum.z + sum.w);
}

// 8 values of four rows, and 8 others.
struct Quad { a: Eight, b: Eight, c: Eight, d: Eight }
struct Values { first: Quad, last: Quad }

fn values_at(p: Place, h: u32, lane: u32) -> Values {
    let first = 4u * (lane & 3u);
    let g = (lane & 31u) / 4u;
    let a = place_of(p.row + min(first, p.most), h, g);
    let b = place_of(p.row + min(first + 1u, p.most), h, g);
    let c = place_of(p.row + min(first + 2u, p.most), h, g);
    let d = place_of(p.row + min(first + 3u, p.most), h, g);
    var v = Values();
    v.first = Quad(values[a], values[b], values[c], values[d]);
    if LANES == 16u {
        v.last = Quad(values[a + 8u], values[b + 8u], values[c + 8u], values[d + 8u]);
    }
    return v;
}

fn greatest_scale(v: Values, seen: vec2<bool>, h: u32) -> vec2<f32> {
    return vec2<f32>(1.0);
}

struct Weights { first: vec2<f32>, last: vec2<f32> }

fn weights_of(v: Values, weight: vec2<f32>, seen: vec2<bool>, h: u32) -> Weights {
    return Weights(weight, weight);
}

// A factor from 2 values of each of four rows.
fn two_rows(a: u32, b: u32, c: u32, d: u32) -> vec4<u32> {
    let p = fragment_pairs(a, b);
    let q = fragment_pairs(c, d);
    return vec4<u32>(p.x, q.x, p.y, q.y);
}

// Four tiles of rows with values of a tile: row g of the i-th is value 2 i of lane c, row g + 8 value 2 i + 1.
fn with_four(before: Four, v: Quad, weights: vec2<u32>, c: u32, lane: u32) -> Four {
    return Four(
        fragment_product(two_rows(v.a.x, v.b.x, v.c.x, v.d.x), weights, before.a, lane),
        fragment_product(two_rows(v.a.y, v.b.y, v.c.y, v.d.y), weights, before.b, lane),
        fragment_product(two_rows(v.a.z, v.b.z, v.c.z, v.d.z), weights, before.c, lane),
        fragment_product(two_rows(v.a.w, v.b.w, v.c.w, v.d.w), weights, before.d, lane),
    );
}

// Sums of 8 values of lane c.
fn numbers_of(x: Four, taken: f32) -> mat2x4<f32> {
    return mat2x4<f32>(
        vec4<f32>(x.a.x + x.a.y, x.a.z + x.a.w, x.b.x + x.b.y, x.b.z + x.b.w),
        vec4<f32>(x.c.x + x.c.y, x.c.z + x.c.w, x.d.x + x.d.y, x.d.z + x.d.w),
    );
}
