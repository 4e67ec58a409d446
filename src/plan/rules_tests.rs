//! Rules on layers put together by chance: fused, not fused and by definition they are the same, whether or not a
//! rule's pattern is quite there.

use super::tests::{array, check_both, devices};
use crate::array::{Device, MLXArray};
use crate::dtype::Dtype;
use crate::gpu::Gpu;
use crate::ops::{Format, Gate, GateKind, Linear, RmsNorm};
use proptest::prelude::*;

/// Width of all arrays.
const K: usize = 64;

/// Layers of one kind of weight.
struct Layers {
    device: Device,
    format: Format,
    dtype: Dtype,
    bias: bool,
    gate: GateKind,
}

impl Layers {
    fn new(choice: u8, device: Device) -> Self {
        let choice = usize::from(choice);
        let bits = [2, 3, 4, 5, 6, 8][choice / 8 % 6];
        Self {
            device,
            format: if choice % 3 == 0 { Format::Dense } else { Format::Affine { bits, group: 32 } },
            dtype: [Dtype::F32, Dtype::F16, Dtype::BF16][choice / 3 % 3],
            bias: choice % 2 == 1,
            gate: [GateKind::Silu, GateKind::Gelu, GateKind::GeluTanh][choice / 5 % 3],
        }
    }

    /// By which part of the greatest value products of halves, and integer products of bytes, may be off after some layers.
    fn of_greatest(&self) -> f32 {
        let halves = || Gpu::shared().is_ok_and(|gpu| gpu.caps().has_matrix_units());
        match (self.device, self.format) {
            (Device::GPU, _) if halves() => 1e-3,
            (Device::GPU, Format::Affine { .. }) => 1e-4,
            _ => 0.0,
        }
    }

    /// An array of the layers' own dtype.
    fn stored(&self, dims: &[usize], from: f32, step: f32) -> MLXArray {
        let x = array(dims, from, step, self.device).astype(self.dtype);
        x.eval();
        x
    }

    fn linear(&self, x: &MLXArray, n: usize) -> MLXArray {
        let weight = match self.format {
            Format::Dense => vec![self.stored(&[n, K], -0.2, 0.004)],
            Format::Affine { bits, group } => {
                let words: Vec<u32> =
                    (1..=(n * K * bits as usize / 32) as u32).map(|i| i.wrapping_mul(0x9e37_79b1)).collect();
                let dims = [n, K * bits as usize / 32];
                let words =
                    MLXArray::from_bytes(bytemuck::cast_slice(&words), &dims, Dtype::U32, self.device);
                let step = 0.4 / (1u32 << bits) as f32;
                let groups = [n, K / group];
                vec![
                    words.unwrap(),
                    self.stored(&groups, step, step / 500.0),
                    self.stored(&groups, -0.2, 0.0),
                ]
            }
        };
        let bias = self.bias.then(|| self.stored(&[n], -0.3, 0.006));
        MLXArray::apply(
            Linear::new(self.format, self.bias),
            &[x].into_iter().chain(&weight).chain(&bias).collect::<Vec<_>>(),
        )
    }

    fn norm(&self, x: &MLXArray) -> MLXArray {
        MLXArray::apply(RmsNorm { eps: 1e-5 }, &[x, &self.stored(&[K], 0.6, 0.01)])
    }

    /// Gates columns from `gate` on columns from `up` on of one linear layer.
    fn gated(&self, x: &MLXArray, [gate, up]: [usize; 2]) -> MLXArray {
        let y = self.linear(x, 2 * K);
        MLXArray::apply(Gate { kind: self.gate }, &[&y.slice(1, gate, K), &y.slice(1, up, K)])
    }

    fn grow(&self, choices: &[(u8, u8, u8)]) -> MLXArray {
        let m = 1 + usize::from(choices[0].1) % 11;
        let mut pool =
            vec![array(&[m, K], -1.0, 0.02, self.device), array(&[m, K], 0.7, -0.013, self.device)];
        for &(what, a, b) in choices {
            let (a, b) = (&pool[a as usize % pool.len()], &pool[b as usize % pool.len()]);
            let next = match what % 11 {
                0 => self.norm(a),
                1 => a + self.linear(b, K),
                2 => self.linear(&self.norm(a), K) + b,
                3 => self.gated(a, [0, K]),
                4 => self.linear(&self.gated(&self.norm(a), [0, K]), K) + a,
                5 => self.linear(a, K) + self.linear(b, K),
                // No rule's gate: the halves the other way around, one half twice, halves that overlap.
                6 => self.gated(a, [K, 0]),
                7 => self.gated(a, [K, K]) + self.gated(b, [0, K / 2]),
                // Read by somebody else as well.
                8 => {
                    let normed = self.norm(a);
                    self.linear(&normed, K) + normed
                }
                9 => {
                    let y = self.linear(a, K);
                    (&y + &y) * 0.5 + b
                }
                _ => (a * 0.5 + b).tanh(),
            };
            pool.push(next);
        }
        pool.pop().unwrap()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn random_layers_agree(kind in any::<u8>(), choices in prop::collection::vec(any::<(u8, u8, u8)>(), 1..7)) {
        for device in devices() {
            let layers = Layers::new(kind, device);
            check_both("random layers", &layers.grow(&choices), 2e-3, layers.of_greatest());
        }
    }
}
