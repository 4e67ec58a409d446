// y[i] = noise: for measuring speed without a checkpoint. KIND 0 f32, 1 f16, 2 bf16: (base + b) * factor, b the
// sum of four random bytes, which is nearly normal (mean 510, deviation 147.8); KIND 3: random bits.
//
// Work split: one invocation per word; element e of the tensor depends on `seed` and e alone. The binding
// begins at an aligned byte, the words at `at`; `first` is the tensor's word that lies there.
// Parts: pack.

struct Params { words: u32, at: u32, first: u32, seed: u32, base: f32, factor: f32, stride: u32 }
@group(0) @binding(0) var<storage, read_write> y: array<u32>;
@group(0) @binding(1) var<uniform> params: Params;

override KIND: u32 = 0u;

const WG: u32 = 256u;

// PCG's output permutation over a linear congruence (O'Neill 2014; Jarzynski and Olano 2020).
fn random(i: u32) -> u32 {
    let state = (i ^ params.seed) * 747796405u + 2891336453u;
    let word = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
    return (word >> 22u) ^ word;
}

// Whole numbers below 2^24 and one product: every machine rounds it alike.
fn noise(i: u32) -> f32 {
    let r = random(i);
    let b = (r & 255u) + ((r >> 8u) & 255u) + ((r >> 16u) & 255u) + (r >> 24u);
    return (params.base + f32(b)) * params.factor;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (group.y * params.stride + group.x) * WG + lane;
    if i < params.words {
        let word = params.first + i;
        var bits = random(word);
        if KIND == 0u {
            bits = bitcast<u32>(noise(word));
        } else if KIND == 1u {
            bits = to_half(noise(2u * word)) | (to_half(noise(2u * word + 1u)) << 16u);
        } else if KIND == 2u {
            bits = to_brain(noise(2u * word)) | (to_brain(noise(2u * word + 1u)) << 16u);
        }
        y[params.at + i] = bits;
    }
}
