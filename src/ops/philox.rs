//! Random numbers by counting: Philox 4x32-10 of Salmon, Moraes, Dror and Shaw ("Parallel random numbers: as
//! easy as 1, 2, 3", 2011). The number of a step depends on the seed and the step alone, so an answer can be
//! continued, replayed or computed elsewhere; `wgsl/parts/philox.wgsl` is the same function.

use crate::array::MLXArray;
use crate::dtype::Dtype;
use crate::wgsl::{File, wgsl};

pub(super) static PHILOX: File = wgsl!("parts/philox.wgsl");

const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
const WEYL: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];
const ROUNDS: usize = 10;

/// Four random words of a key and a counter.
fn philox(mut key: [u32; 2], mut counter: [u32; 4]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let [first, second] =
            [0, 1].map(|i| u64::from(MULTIPLIERS[i]).wrapping_mul(u64::from(counter[2 * i])));
        let high = |x: u64| (x >> 32) as u32;
        counter = [
            high(second) ^ counter[1] ^ key[0],
            second as u32,
            high(first) ^ counter[3] ^ key[1],
            first as u32,
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// The number of a step: in [0, 1), a multiple of 2^-24.
pub(crate) fn uniform(seed: u64, step: u32) -> f32 {
    let [word, ..] = philox([seed as u32, (seed >> 32) as u32], [step, 0, 0, 0]);
    (word >> 8) as f32 / (1u32 << 24) as f32
}

/// [`uniform`] as a formula of u32 arrays of one shape.
pub(super) fn formula(key: [MLXArray; 2], step: &MLXArray) -> MLXArray {
    let word = MLXArray::scalar_u32;
    let xor = |a: &MLXArray, b: &MLXArray| &(a | b) - &(a & b);
    let low = |x: &MLXArray| x & &word(0xffff);
    let high = |x: &MLXArray| x.shr(&word(16));
    let multiply_high = |a: u32, x: &MLXArray| {
        let (al, ah) = (word(a & 0xffff), word(a >> 16));
        let left = &low(x) * &ah;
        let middle = &(&high(&(&low(x) * &al)) + &low(&left)) + &(&high(x) * &al);
        &(&(&high(x) * &ah) + &high(&left)) + &high(&middle)
    };
    let zero = step & &word(0);
    let mut key = key;
    let mut c = [step.clone(), zero.clone(), zero.clone(), zero];
    for _ in 0..ROUNDS {
        let [m0, m1] = MULTIPLIERS;
        c = [
            xor(&xor(&multiply_high(m1, &c[2]), &c[1]), &key[0]),
            &c[2] * &word(m1),
            xor(&xor(&multiply_high(m0, &c[0]), &c[3]), &key[1]),
            &c[0] * &word(m0),
        ];
        key = [&key[0] + &word(WEYL[0]), &key[1] + &word(WEYL[1])];
    }
    c[0].shr(&word(8)).astype(Dtype::F32) * (1.0 / (1u32 << 24) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Bind, Gpu, Recording, Step, or_skip};
    use crate::op::Stage;

    /// Of the authors' known answers (Random123, `kat_vectors`): counter, key, result.
    const KNOWN: [([u32; 4], [u32; 2], [u32; 4]); 3] = [
        ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
        ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
        (
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0],
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
        ),
    ];

    #[test]
    fn known_answers() {
        for (counter, key, answer) in KNOWN {
            assert_eq!(philox(key, counter), answer);
        }
    }

    #[test]
    fn known_answers_of_the_shader() {
        let Some(gpu) = or_skip(Gpu::shared()) else { return };
        let text = "@group(0) @binding(0) var<storage, read> x: array<u32>;
            @group(0) @binding(1) var<storage, read_write> y: array<vec4<u32>>;
            @compute @workgroup_size(1) fn main(@builtin(workgroup_id) id: vec3<u32>) {
                let at = 6u * id.x;
                let counter = vec4<u32>(x[at], x[at + 1u], x[at + 2u], x[at + 3u]);
                y[id.x] = philox(vec2<u32>(x[at + 4u], x[at + 5u]), counter);
            }";
        let stage = Stage {
            files: vec![&PHILOX],
            generated: text.into(),
            grid: [KNOWN.len() as u32, 1, 1],
            ..Stage::default()
        };
        let x: Vec<u32> = KNOWN.iter().flat_map(|(c, k, _)| c.iter().chain(k)).copied().collect();
        let sizes = [4 * x.len() as u64, 16 * KNOWN.len() as u64];
        let buffers = sizes.map(|bytes| gpu.alloc(bytes).unwrap());
        gpu.write(&buffers[0], 0, bytemuck::cast_slice(&x)).unwrap();
        let bind = |slot: usize| Bind { slot, offset: 0, bytes: sizes[slot], write: slot == 1 };
        let steps = vec![Step::Dispatch(stage.dispatch("philox", vec![bind(0), bind(1)]))];
        let prepared = gpu.prepare(&Recording { buffers: sizes.to_vec(), steps }, &buffers).unwrap();
        gpu.run(&prepared).unwrap();
        let got: Vec<u32> = bytemuck::pod_collect_to_vec(&gpu.read_vec(&buffers[1]).unwrap());
        assert_eq!(got, KNOWN.iter().flat_map(|(_, _, answer)| *answer).collect::<Vec<u32>>());
    }

    #[test]
    fn the_formula_is_the_function() {
        for (seed, step) in [(0, 0), (7, 1), (0x0123_4567_89ab_cdef, 99), (u64::MAX, u32::MAX)] {
            let word = |w: u32| MLXArray::from_bytes(&w.to_le_bytes(), &[1], Dtype::U32, crate::Device::CPU);
            let key = [word(seed as u32).unwrap(), word((seed >> 32) as u32).unwrap()];
            let value = formula(key, &word(step).unwrap());
            assert_eq!(value.data(), [uniform(seed, step)]);
        }
    }

    #[test]
    fn numbers_are_uniform() {
        let mut counts = [0u32; 16];
        for step in 0..16_000 {
            let u = uniform(7, step);
            assert!((0.0..1.0).contains(&u));
            counts[(u * 16.0) as usize] += 1;
        }
        // 1000 expected in each, standard deviation 31.
        assert!(counts.iter().all(|n| (850..1150).contains(n)), "{counts:?}");
    }
}
