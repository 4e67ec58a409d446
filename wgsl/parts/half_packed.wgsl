// What packed weights have in common on their way into workgroup memory: LOAD codes of one group, four words, are
// fetched at a time. Parts: place (floats), LOAD (half_q4, half_q8).

// Weights come times so much: their scale, which is smaller than they are, is then no subnormal half.
const LIFT: f32 = 64.0;

struct Raw { words: vec4<u32>, scale: u32, offset: u32, group: u32 }

override SCALES: u32 = 0u;
override GROUP: u32 = 8u;

fn fetch(row: u32, k: u32) -> Raw {
    let group = row * params.groups + k / (8u * GROUP);
    let at = place(SCALES, group);
    return Raw(weight[(row * params.units + k / 8u) / (LOAD / 8u)], scales[at], biases[at], group);
}
