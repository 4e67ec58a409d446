//! Weight matrices as a file stores them: dense, or affine codes with a scale and a bias per group.
//!
//! Both mean the same thing, an f32 matrix `[n, k]`; [`Format::rows`] is its formula. MLX's affine layout:
//! the codes of a row are a little-endian bit stream of `k * bits` bits in u32 words, and
//! `w = scale * code + bias` with one scale and one bias per `group` codes.

use crate::array::MLXArray;
use crate::dtype::Dtype;
use crate::op::{Fill, Spec, Word};

/// How a weight is stored, and so which inputs an op takes for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// One input: weight `[n, k]`, f32, f16 or bf16.
    Dense,
    /// Three inputs: words `[n, k * bits / 32]` u32, scales `[n, k / group]`, biases like the scales.
    Affine {
        /// Bits per code: 2, 3, 4, 5, 6 or 8.
        bits: u32,
        /// Codes that share a scale: 32, 64 or 128.
        group: usize,
    },
}

impl Format {
    /// How many inputs the weight takes.
    pub fn inputs(self) -> usize {
        match self {
            Self::Dense => 1,
            Self::Affine { .. } => 3,
        }
    }

    /// `k` of a weight given by these inputs.
    pub(super) fn k(self, parts: &[Spec]) -> usize {
        match self {
            Self::Dense => parts[0].axis(1),
            Self::Affine { group, .. } => parts[1].axis(1) * group,
        }
    }

    /// The parameters as words.
    pub(super) fn words(self) -> Vec<Word> {
        match self {
            Self::Dense => vec![Word::U32(0)],
            Self::Affine { bits, group } => vec![bits.into(), group.into()],
        }
    }

    /// The formula: the weight as f32 `[rows, k]`.
    #[track_caller]
    pub(super) fn rows(self, parts: &[MLXArray]) -> MLXArray {
        let Self::Affine { bits, group } = self else {
            assert!(parts[0].dtype().is_float(), "a dense weight is {}", parts[0].spec());
            return parts[0].astype(Dtype::F32);
        };
        let (words, scales, biases) = (&parts[0], &parts[1], &parts[2]);
        let (n, groups) = (scales.dims()[0], scales.dims()[1]);
        let k = groups * group;
        assert!(
            words.dims() == [n, k * bits as usize / 32]
                && words.dtype() == Dtype::U32
                && scales.spec() == biases.spec(),
            "{bits} bits in groups of {group}: words {}, scales {}, biases {}",
            words.spec(),
            scales.spec(),
            biases.spec()
        );
        let u32 = MLXArray::scalar_u32;
        let bit = &MLXArray::iota(k) * &u32(bits);
        let word = bit.shr(&u32(5));
        let shift = &bit & &u32(31);
        // A code may end in the next word; past the last one `take` reads 0.
        let low = words.take(&word, 1).shr(&shift);
        let high = words.take(&(&word + &u32(1)), 1).shl(&(&u32(32) - &shift));
        let code = (&low | &high) & u32((1 << bits) - 1);
        let code = code.astype(Dtype::F32).reshape(&[n, groups, group]);
        let per_group = |x: &MLXArray| x.reshape(&[n, groups, 1]);
        (&(&per_group(scales) * &code) + &per_group(biases)).reshape(&[n, k])
    }

    /// Fills for a test weight.
    pub(super) fn fills(self, n: usize, k: usize, dtype: Dtype) -> Vec<Fill> {
        match self {
            Self::Dense => vec![Fill::Normal(Spec::new(&[n, k], dtype))],
            Self::Affine { bits, group } => {
                let per_group = Fill::Normal(Spec::new(&[n, k / group], dtype));
                let words = Fill::Bits(Spec::new(&[n, k * bits as usize / 32], Dtype::U32));
                vec![words, per_group.clone(), per_group]
            }
        }
    }
}
