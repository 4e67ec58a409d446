//! Weight matrices as a file stores them: dense, or affine codes with a scale and a bias per group.
//!
//! Both mean the same thing, an f32 matrix `[n, k]`; [`Format::rows`] is its formula. MLX's affine layout:
//! the codes of a row are a little-endian bit stream of `k * bits` bits in u32 words, and
//! `w = scale * code + bias` with one scale and one bias per `group` codes.

use super::kernel::{FLOATS, PACK, kind};
use crate::array::MLXArray;
use crate::cpu::{Floats, Weight};
use crate::dtype::Dtype;
use crate::gpu::Caps;
use crate::op::{Arg, Fill, HostRef, Spec, Word};
use crate::wgsl::{File, wgsl};

static F32: File = wgsl!("parts/weight_f32.wgsl");
static F16: File = wgsl!("parts/weight_f16.wgsl");
static BF16: File = wgsl!("parts/weight_bf16.wgsl");
static ODD: File = wgsl!("parts/weight_odd.wgsl");
static DENSE: File = wgsl!("parts/dense.wgsl");
static SCALES: File = wgsl!("parts/scales.wgsl");
static CODES4: File = wgsl!("parts/codes_q4.wgsl");
static CODES8: File = wgsl!("parts/codes_q8.wgsl");
static CODES2: File = wgsl!("parts/codes_q2.wgsl");
static CODES3: File = wgsl!("parts/codes_q3.wgsl");
static CODES5: File = wgsl!("parts/codes_q5.wgsl");
static CODES6: File = wgsl!("parts/codes_q6.wgsl");
static BYTES4: File = wgsl!("parts/bytes4.wgsl");
static ORDER_EVEN: File = wgsl!("parts/order_even.wgsl");
static ORDER_HALF: File = wgsl!("parts/order_half.wgsl");
static PLANES: File = wgsl!("parts/planes.wgsl");
static PRODUCT: File = wgsl!("parts/product.wgsl");
pub(super) static DOT_PLANES: File = wgsl!("parts/dot_planes.wgsl");
static APART: File = wgsl!("parts/apart.wgsl");
static AFFINE: File = wgsl!("parts/affine.wgsl");
static Q2: File = wgsl!("parts/weight_q2.wgsl");
static Q3: File = wgsl!("parts/weight_q3.wgsl");
static Q4: File = wgsl!("parts/weight_q4.wgsl");
static Q5: File = wgsl!("parts/weight_q5.wgsl");
static Q6: File = wgsl!("parts/weight_q6.wgsl");
static Q8: File = wgsl!("parts/weight_q8.wgsl");

/// Values that kernels handle at a time.
pub(super) const UNIT: usize = 8;

/// How a kernel reads a weight.
pub(super) struct Reader {
    /// Parts that supply `code8`, `weight8` and `scaled`.
    pub(super) files: Vec<&'static File>,
    /// Their constants.
    pub(super) constants: Vec<(&'static str, f64)>,
    /// Names and types of the bindings.
    pub(super) bindings: Vec<(&'static str, &'static str)>,
}

/// Rows of a weight that one binding can show.
pub(super) struct Chunk {
    pub(super) first_row: usize,
    pub(super) rows: usize,
    pub(super) args: Vec<Arg>,
}

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

    /// Groups of a row.
    pub(super) fn groups(self, parts: &[Spec]) -> usize {
        match self {
            Self::Dense => 0,
            Self::Affine { .. } => parts[1].axis(1),
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
            let fits = parts[0].dtype().is_float() && parts[0].dims().len() == 2;
            assert!(fits, "a dense weight is {}", parts[0].spec());
            return parts[0].astype(Dtype::F32);
        };
        let (words, scales, biases) = (&parts[0], &parts[1], &parts[2]);
        let known = matches!(bits, 2..=6 | 8) && matches!(group, 32 | 64 | 128);
        assert!(known, "{bits} bits in groups of {group}");
        let [n, groups] = *scales.dims() else { panic!("scales {}", scales.spec()) };
        let k = groups * group;
        assert!(
            words.dims() == [n, k * bits as usize / 32]
                && words.dtype() == Dtype::U32
                && scales.spec() == biases.spec()
                && scales.dtype().is_float(),
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

    /// How kernels read the weight; `None` for what they cannot.
    pub(super) fn reader(self, parts: &[Spec]) -> Option<Reader> {
        let Self::Affine { bits, group } = self else {
            let (odd, dtype) = (!parts[0].axis(1).is_multiple_of(UNIT), parts[0].dtype);
            let (file, kind_of_words) = match dtype {
                _ if odd => (&ODD, "array<u32>"),
                Dtype::F32 => (&F32, "array<vec4<f32>>"),
                Dtype::F16 => (&F16, "array<vec4<u32>>"),
                Dtype::BF16 => (&BF16, "array<vec4<u32>>"),
                _ => return None,
            };
            return Some(Reader {
                files: vec![file, &DENSE, &FLOATS, &PACK],
                constants: if odd { vec![("WEIGHT", kind(dtype))] } else { Vec::new() },
                bindings: vec![("weight", kind_of_words)],
            });
        };
        let file = match bits {
            2 => &Q2,
            3 => &Q3,
            4 => &Q4,
            5 => &Q5,
            6 => &Q6,
            8 => &Q8,
            _ => return None,
        };
        Some(Reader {
            files: vec![file, &AFFINE, &SCALES, &FLOATS, &PACK],
            constants: vec![("GROUP", (group / UNIT) as f64), ("SCALES", kind(parts[1].dtype))],
            bindings: vec![("weight", "array<u32>"), ("scales", "array<u32>"), ("biases", "array<u32>")],
        })
    }

    /// How kernels read 32 packed codes at a time: up to 4 bits two in a byte, else one; `None` for what has none.
    pub(super) fn packed(self, parts: &[Spec]) -> Option<Reader> {
        let Self::Affine { bits, group } = self else { return None };
        let (files, words): (&[&File], _) = match bits {
            2 => (&[&CODES2, &BYTES4], "array<vec2<u32>>"),
            3 => (&[&CODES3, &BYTES4], "array<u32>"),
            4 => (&[&CODES4], "array<vec4<u32>>"),
            5 => (&[&CODES5, &BYTES4], "array<u32>"),
            6 => (&[&CODES6, &BYTES4], "array<vec2<u32>>"),
            8 => (&[&CODES8], "array<vec4<u32>>"),
            _ => return None,
        };
        Some(Reader {
            files: [files, &[&SCALES, &FLOATS, &PACK]].concat(),
            constants: vec![("GROUP", (group / UNIT) as f64), ("SCALES", kind(parts[1].dtype))],
            bindings: vec![("weight", words), ("scales", "array<u32>"), ("biases", "array<u32>")],
        })
    }

    /// How kernels of integer products read the weight: 32 codes at a time as signed bytes; `None` for what has none.
    pub(super) fn bytes(self, parts: &[Spec]) -> Option<Reader> {
        let mut reader = self.packed(parts)?;
        reader.files.extend([&PRODUCT, &DOT_PLANES]);
        if matches!(self, Self::Affine { bits: ..=4, .. }) {
            reader.files.push(&APART);
        }
        Some(reader)
    }

    /// How such kernels make bytes of `x`: parts and their constants.
    pub(super) fn planes(self) -> ([&'static File; 2], &'static [(&'static str, f64)]) {
        let (order, constants): (_, &[_]) = match self {
            Self::Affine { bits: ..=4, .. } => (&ORDER_EVEN, &[]),
            Self::Affine { bits: 8, .. } => (&ORDER_HALF, &[("ZERO_FIRST", 128.0), ("ZERO_LAST", 128.0)]),
            _ => (&ORDER_HALF, &[]),
        };
        ([&PLANES, order], constants)
    }

    /// The weight, which is inputs `first_input ..`, in chunks of rows that bindings can show; bounds are
    /// multiples of 256 rows, and so every chunk begins at a multiple of 256 bytes.
    pub(super) fn chunks(self, parts: &[Spec], first_input: usize, caps: &Caps) -> Vec<Chunk> {
        let n = parts[0].dims[0];
        let row_bytes = |part: &Spec| part.axis(1) * part.dtype.size();
        let widest = parts.iter().map(row_bytes).max().unwrap_or(0).max(1);
        let limit = caps.max_binding as usize / widest;
        if n <= limit {
            let args = (0..parts.len()).map(|i| Arg::Input(first_input + i)).collect();
            return vec![Chunk { first_row: 0, rows: n, args }];
        }
        let step = (limit / 256 * 256).max(256);
        let chunk = |first_row: usize| {
            let rows = step.min(n - first_row);
            let part = |(i, part): (usize, &Spec)| Arg::InputPart {
                index: first_input + i,
                offset: (first_row * row_bytes(part)) as u64,
                bytes: (rows * row_bytes(part)) as u64,
            };
            Chunk { first_row, rows, args: parts.iter().enumerate().map(part).collect() }
        };
        (0..n).step_by(step).map(chunk).collect()
    }

    /// The weight as the native kernels take it.
    pub(super) fn host<'a>(self, parts: &[HostRef<'a>]) -> Weight<'a> {
        match self {
            Self::Dense => Weight::Dense(floats(&parts[0])),
            Self::Affine { bits, group } => Weight::Affine {
                bits,
                group,
                words: parts[0].as_slice(),
                scales: floats(&parts[1]),
                biases: floats(&parts[2]),
            },
        }
    }
}

/// Floats as the native kernels take them; other dtypes do not get here.
pub(super) fn floats<'a>(x: &HostRef<'a>) -> Floats<'a> {
    match x.spec.dtype {
        Dtype::F16 => Floats::F16(x.as_slice()),
        Dtype::BF16 => Floats::BF16(x.as_slice()),
        _ => Floats::F32(x.as_slice()),
    }
}
