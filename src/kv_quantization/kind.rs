//! Kinds of caches: how many bits keys and values take, and what names they have.

use super::baseline::Baseline;
use crate::array::Device;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::ops::Packing;
use std::fmt;
use std::str::FromStr;

/// Bits that keys and values may have.
const BITS: [u8; 4] = [3, 4, 5, 8];

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KvKind {
    /// Half precision: the default on a GPU.
    F16,
    /// Single precision, exact: the default on the CPU.
    F32,
    /// 8 bits: as good as f16 in about half its memory.
    Int8,
    /// Keys in 8 bits, values in 4.
    K8V4,
    /// 4 bits.
    Int4,
    /// Keys in 4 bits, values in 3: about an eighth of f32.
    K4V3,
    /// Keys and values in these bits, 3, 4, 5 or 8: `k8v3`, `k5v4` and so on.
    Bits {
        /// Bits of the keys.
        keys: u8,
        /// Bits of the values.
        values: u8,
    },
    /// mlx-lm's affine cache with its exact numbers, scales and biases in f32.
    Mlx {
        /// 4 or 8.
        bits: u8,
        /// Neighbours that share a scale: 32, 64 or 128.
        group: u8,
    },
    /// Rotated and packed, keys and values in these bits, but neither centred nor balanced: to see what that gains.
    #[doc(hidden)]
    Plain(u8, u8),
    /// An f32 cache whose rows were rounded as another scheme does: to compare with.
    #[doc(hidden)]
    Simulated(Baseline),
}

impl KvKind {
    /// Every kind, for help texts.
    pub const ALL: [Self; 8] = [
        Self::F32,
        Self::F16,
        Self::Int8,
        Self::K8V4,
        Self::Int4,
        Self::K4V3,
        Self::Mlx { bits: 8, group: 64 },
        Self::Mlx { bits: 4, group: 64 },
    ];

    /// The name on command lines.
    pub fn name(self) -> String {
        match self {
            Self::F16 => "f16".into(),
            Self::F32 => "f32".into(),
            Self::Int8 => "int8".into(),
            Self::K8V4 => "k8v4".into(),
            Self::Int4 => "int4".into(),
            Self::K4V3 => "k4v3".into(),
            Self::Bits { keys, values } => format!("k{keys}v{values}"),
            Self::Mlx { bits, group: 64 } => format!("mlx{bits}"),
            Self::Mlx { bits, group } => format!("mlx{bits}-g{group}"),
            Self::Plain(k, v) => format!("k{k}v{v}-plain"),
            Self::Simulated(baseline) => baseline.name().into(),
        }
    }

    /// What a device uses unless told otherwise.
    pub const fn default_for(device: Device) -> Self {
        match device {
            Device::CPU => Self::F32,
            Device::GPU => Self::F16,
        }
    }

    /// Bytes of the key and the value of one token in one layer, scales included.
    pub const fn bytes_per_token(self, kv_heads: usize, head_dim: usize) -> u64 {
        match self.packing() {
            Some([k, v]) => 4 * (k.row_words(kv_heads, head_dim) + v.row_words(kv_heads, head_dim)) as u64,
            None => 2 * (kv_heads * head_dim * self.dtype().size()) as u64,
        }
    }

    /// How keys and values are coded, if they are not floats.
    pub const fn packing(self) -> Option<[Packing; 2]> {
        let (k, v) = match self {
            Self::F16 | Self::F32 | Self::Simulated(_) => return None,
            Self::Mlx { bits, group } => return Some([Packing::affine(bits as u32, group as usize); 2]),
            Self::Int8 => (8, 8),
            Self::K8V4 => (8, 4),
            Self::Int4 => (4, 4),
            Self::K4V3 => (4, 3),
            Self::Bits { keys: k, values: v } | Self::Plain(k, v) => (k as u32, v as u32),
        };
        Some([Packing::rotated(k), Packing::rotated(v)])
    }

    /// Whether heads are centred and balanced before they are coded.
    pub(crate) const fn has_basis(self) -> bool {
        matches!(self, Self::Int8 | Self::K8V4 | Self::Int4 | Self::K4V3 | Self::Bits { .. })
    }

    /// Elements of the arrays.
    pub(super) const fn dtype(self) -> Dtype {
        match self {
            Self::F16 => Dtype::F16,
            Self::F32 | Self::Simulated(_) => Dtype::F32,
            _ => Dtype::U32,
        }
    }

    /// Whether heads of this size can be stored so.
    ///
    /// # Errors
    /// `is_input`: bits or groups that there are not; mlx's groups must divide a head.
    pub(crate) fn check(self, head_dim: usize) -> Result<()> {
        let known = match self {
            Self::Bits { keys, values } => BITS.contains(&keys) && BITS.contains(&values),
            Self::Mlx { bits, group } => matches!(bits, 4 | 8) && matches!(group, 32 | 64 | 128),
            _ => true,
        };
        match self {
            _ if !known => Err(Error::input(format!("KV cache kind `{}`: there is none", self.name()))),
            Self::Mlx { group, .. } if !head_dim.is_multiple_of(group as usize) => {
                Err(Error::input(format!(
                    "KV cache kind `{}`: heads of {head_dim} values are no whole groups of {group}",
                    self.name()
                )))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for KvKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

impl FromStr for KvKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let groups = [(8, 32), (4, 32), (8, 128), (4, 128)].map(|(bits, group)| Self::Mlx { bits, group });
        let pairs = BITS.iter().flat_map(|&keys| BITS.map(|values| Self::Bits { keys, values }));
        let same = match name {
            "k8v8" => "int8",
            "k4v4" => "int4",
            other => other,
        };
        let mut all = Self::ALL.into_iter().chain(groups).chain(pairs);
        all.find(|kind| kind.name() == same).ok_or_else(|| {
            Error::input(format!(
                "KV cache kind `{name}`; known are {}; k8v3 and the like of 8, 5, 4 or 3 bits for keys and for values; \
                 mlx8 and mlx4 also with -g32 or -g128 at their end",
                Self::ALL.map(Self::name).join(", ")
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_names() {
        for kind in KvKind::ALL {
            assert_eq!(kind.name().parse::<KvKind>().unwrap(), kind);
        }
        assert_eq!("mlx8-g32".parse::<KvKind>().unwrap(), KvKind::Mlx { bits: 8, group: 32 });
        assert!("int3".parse::<KvKind>().unwrap_err().is_input());
        assert_eq!("k8v8".parse::<KvKind>().unwrap(), KvKind::Int8);
        assert_eq!("k4v3".parse::<KvKind>().unwrap(), KvKind::K4V3);
        let k8v3 = KvKind::Bits { keys: 8, values: 3 };
        assert_eq!(("k8v3".parse::<KvKind>().unwrap(), k8v3.name()), (k8v3, "k8v3".to_string()));
        for kind in [KvKind::Mlx { bits: 4, group: 0 }, KvKind::Bits { keys: 7, values: 4 }] {
            assert!(kind.check(64).unwrap_err().is_input());
            assert!(kind.bytes_per_token(2, 64) > 0);
        }
    }

    /// Bits of a value with all that belongs to it, at heads of 128.
    #[test]
    fn bits_all_in() {
        let bits = |kind: KvKind| kind.bytes_per_token(8, 128) as f64 * 8.0 / 2048.0;
        let kinds = [KvKind::Int8, KvKind::K8V4, KvKind::Int4, KvKind::K4V3];
        assert_eq!(kinds.map(bits), [8.25, 6.25, 4.25, 3.75]);
        assert_eq!(bits(KvKind::Mlx { bits: 8, group: 64 }), 9.0);
    }
}
