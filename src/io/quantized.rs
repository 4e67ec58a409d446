//! Packed weights: what a configuration says about them, and what their numbers are.
//!
//! MLX's affine format stores a matrix `[out, in]` as three tensors. `weight` is u32
//! `[out, in * bits / 32]`: each row is one little-endian bit stream, element `i` in bits
//! `i*bits .. (i+1)*bits`. `scales` and `biases` are `[out, in / group_size]`, and
//! `w = scale * q + bias`. A configuration gives defaults and exceptions by module path.

use super::json::Fields;
use crate::error::{Error, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// How a weight is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quantization {
    /// Bits of one element: 2, 3, 4, 5, 6 or 8.
    pub bits: usize,
    /// Consecutive elements of a row that share a scale: 32, 64 or 128 for affine.
    pub group_size: usize,
    /// What the bits mean.
    pub mode: QuantizationMode,
}

/// What packed bits mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum QuantizationMode {
    /// `scale * q + bias`.
    Affine,
    /// fp4 (e2m1) times a power of two for each 32.
    Mxfp4,
    /// fp4 (e2m1) times an e4m3 scale for each 16.
    Nvfp4,
    /// fp8 (e4m3) times a power of two for each 32.
    Mxfp8,
}

impl fmt::Display for Quantization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bit {} in groups of {}", self.bits, self.mode, self.group_size)
    }
}

impl fmt::Display for QuantizationMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Affine => "affine",
            Self::Mxfp4 => "mxfp4",
            Self::Nvfp4 => "nvfp4",
            Self::Mxfp8 => "mxfp8",
        })
    }
}

/// The `quantization` entry of a configuration.
#[derive(Clone, Debug)]
pub(crate) struct QuantizationConfig {
    default: Quantization,
    /// By module path; `None` means not quantized.
    overrides: BTreeMap<String, Option<Quantization>>,
}

impl QuantizationConfig {
    /// Reads MLX's `quantization` (or its copy `quantization_config`).
    pub(super) fn parse(config: &Fields<'_>) -> Result<Option<Self>> {
        let (key, fields) = match (config.object("quantization")?, config.raw("quantization_config")) {
            (Some(fields), _) => ("quantization", fields),
            (None, None) => return Ok(None),
            (None, Some(_)) => match config.object("quantization_config")? {
                Some(fields) => ("quantization_config", fields),
                None => return Ok(None),
            },
        };
        if let Some(method) = fields.raw("quant_method") {
            let method = method.as_str().unwrap_or("?");
            return Err(config.unsupported(
                key,
                format_args!(
                    "weights quantized by `{method}`; MLX's quantization and plain f32, f16, bf16 can be read"
                ),
            ));
        }
        let default = entry(&fields, None)?;
        let mut overrides = BTreeMap::new();
        for (path, value) in fields.iter() {
            match value {
                Value::Object(_) => {
                    let nested = fields.object(path)?.ok_or_else(|| fields.missing(path))?;
                    overrides.insert(path.clone(), Some(entry(&nested, Some(default))?));
                }
                Value::Bool(false) => drop(overrides.insert(path.clone(), None)),
                Value::Bool(true) => drop(overrides.insert(path.clone(), Some(default))),
                _ => {} // the defaults themselves
            }
        }
        Ok(Some(Self { default, overrides }))
    }

    /// Renames the modules that it names.
    pub(crate) fn rename(&mut self, name: impl Fn(&str) -> String) {
        let overrides = std::mem::take(&mut self.overrides);
        self.overrides = overrides.into_iter().map(|(module, how)| (name(&module), how)).collect();
    }

    /// What the configuration says about a module; `None`: it is not quantized.
    pub(crate) fn of(&self, module: &str) -> Option<Quantization> {
        self.overrides.get(module).copied().unwrap_or(Some(self.default))
    }
}

fn entry(f: &Fields<'_>, default: Option<Quantization>) -> Result<Quantization> {
    let mode = match f.optional::<String>("mode")?.as_deref() {
        None => default.map_or(QuantizationMode::Affine, |d| d.mode),
        Some("affine") => QuantizationMode::Affine,
        Some("mxfp4") => QuantizationMode::Mxfp4,
        Some("nvfp4") => QuantizationMode::Nvfp4,
        Some("mxfp8") => QuantizationMode::Mxfp8,
        Some(other) => return Err(f.unsupported("mode", format_args!("quantization mode `{other}`"))),
    };
    let number = |field: &str, from_default: Option<usize>| -> Result<usize> {
        f.count(field, 1..=1 << 16)?.or(from_default).ok_or_else(|| f.missing(field))
    };
    let bits = number("bits", default.map(|d| d.bits))?;
    let group_size = number("group_size", default.map(|d| d.group_size))?;
    if mode == QuantizationMode::Affine {
        if !BITS.contains(&bits) {
            return Err(f.unsupported("bits", format_args!("{bits}; affine weights have {BITS:?}")));
        }
        if !GROUPS.contains(&group_size) {
            return Err(f.unsupported("group_size", format_args!("{group_size}; known are {GROUPS:?}")));
        }
    }
    Ok(Quantization { bits, group_size, mode })
}

const BITS: [usize; 6] = [2, 3, 4, 5, 6, 8];
const GROUPS: [usize; 3] = [32, 64, 128];

/// What the shapes alone say: the only affine format in which a row of `words` u32 has `groups` groups.
pub(super) fn infer(words: usize, groups: usize) -> Option<Quantization> {
    let fits = |&(bits, group): &(usize, usize)| words.checked_mul(32) == groups.checked_mul(bits * group);
    let all = BITS.iter().flat_map(|&b| GROUPS.iter().map(move |&g| (b, g)));
    let mut found = all.filter(fits);
    match (found.next(), found.next()) {
        (Some((bits, group_size)), None) => {
            Some(Quantization { bits, group_size, mode: QuantizationMode::Affine })
        }
        _ => None,
    }
}

/// Writes the numbers of packed affine rows: `packed` is the rows' bytes, `scales` and `biases` one
/// value per group, `out` has room for all elements.
///
/// # Errors
/// Lengths that do not belong together.
pub(crate) fn dequantize(
    packed: &[u8],
    scales: &[f32],
    biases: &[f32],
    quantization: Quantization,
    out: &mut [f32],
) -> Result<()> {
    let Quantization { bits, group_size, .. } = quantization;
    let groups = out.len() / group_size.max(1);
    if !BITS.contains(&bits)
        || groups * group_size != out.len()
        || packed.len() * 8 != out.len() * bits
        || scales.len() != groups
        || biases.len() != groups
    {
        return Err(Error::input(format!(
            "{} packed bytes, {} scales and {} biases are not {} elements of {quantization}",
            packed.len(),
            scales.len(),
            biases.len(),
            out.len()
        )));
    }
    // Eight elements are `bits` whole bytes in every format, so each run of eight is one u64 shifted.
    // Groups are multiples of eight, and rows of whole groups, so runs never straddle either.
    let mask = (1u64 << bits) - 1;
    let group_bytes = group_size * bits / 8;
    let per_group = out.chunks_exact_mut(group_size).zip(packed.chunks_exact(group_bytes));
    for ((out, packed), (&scale, &bias)) in per_group.zip(scales.iter().zip(biases)) {
        for (out, run) in out.chunks_exact_mut(8).zip(packed.chunks_exact(bits)) {
            let mut word = [0; 8];
            word[..bits].copy_from_slice(run);
            let mut word = u64::from_le_bytes(word);
            for x in out {
                *x = scale * (word & mask) as f32 + bias;
                word >>= bits;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_decide_only_where_one_format_fits() {
        let of = |bits, group_size| Some(Quantization { bits, group_size, mode: QuantizationMode::Affine });
        assert_eq!(infer(10, 1), of(5, 64));
        assert_eq!(infer(2, 1), of(2, 32));
        assert_eq!(infer(8, 1), None); // 4 bits in 64, or 8 in 32, or 2 in 128
        assert_eq!(infer(7, 1), None);
        assert_eq!(infer(usize::MAX, 3), None);
        assert_eq!(infer(0, 0), None);
    }

    #[test]
    fn every_width_unpacks_its_bit_stream() {
        for bits in BITS {
            let q = |i: usize| (i * 7 + i / 5) % (1 << bits);
            let mut packed = vec![0u8; 64 * bits / 8];
            for i in 0..64 {
                for b in 0..bits {
                    let at = i * bits + b;
                    packed[at / 8] |= ((q(i) >> b & 1) as u8) << (at % 8);
                }
            }
            let quantization = Quantization { bits, group_size: 32, mode: QuantizationMode::Affine };
            let mut out = [0.0; 64];
            dequantize(&packed, &[0.5, -2.0], &[1.0, 3.0], quantization, &mut out).unwrap();
            for (i, x) in out.iter().enumerate() {
                let (s, b) = [(0.5, 1.0), (-2.0, 3.0)][i / 32];
                assert_eq!(*x, s * q(i) as f32 + b, "{bits} bits, element {i}");
            }
            assert!(dequantize(&packed[1..], &[0.5, -2.0], &[1.0, 3.0], quantization, &mut out).is_err());
        }
    }
}
