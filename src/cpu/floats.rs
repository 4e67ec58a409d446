//! Floating-point storage, widened on the way in and rounded on the way out.

use super::simd::{LANES, Simd};
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};
use std::ops::Range;

/// Values as a file or a cache stores them; the 16-bit kinds as their bits.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Floats<'a> {
    F32(&'a [f32]),
    F16(&'a [u16]),
    BF16(&'a [u16]),
}

impl<'a> Floats<'a> {
    pub(crate) fn len(self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::F16(v) | Self::BF16(v) => v.len(),
        }
    }

    #[inline]
    pub(crate) fn get(self, i: usize) -> f32 {
        match self {
            Self::F32(v) => v[i],
            Self::F16(v) => widen_f16(v[i]),
            Self::BF16(v) => f32::from_bits(u32::from(v[i]) << 16),
        }
    }

    #[inline]
    pub(crate) fn slice(self, range: Range<usize>) -> Self {
        match self {
            Self::F32(v) => Self::F32(&v[range]),
            Self::F16(v) => Self::F16(&v[range]),
            Self::BF16(v) => Self::BF16(&v[range]),
        }
    }

    /// All values as `f32`; `out` is as long.
    pub(crate) fn widen_into(self, out: &mut [f32]) {
        debug_assert_eq!(self.len(), out.len());
        match self {
            Self::F32(v) => out.copy_from_slice(v),
            Self::F16(v) => v.reinterpret_cast::<f16>().convert_to_f32_slice(out),
            Self::BF16(v) => {
                for (out, &v) in out.iter_mut().zip(v) {
                    *out = f32::from_bits(u32::from(v) << 16);
                }
            }
        }
    }
}

/// Storage that rows of `f32` are rounded into, to nearest even.
#[derive(Debug)]
pub(crate) enum FloatsMut<'a> {
    F32(&'a mut [f32]),
    F16(&'a mut [u16]),
    BF16(&'a mut [u16]),
}

impl FloatsMut<'_> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::F16(v) | Self::BF16(v) => v.len(),
        }
    }

    /// Rounds `values` into place, from element `at` on.
    pub(crate) fn write(&mut self, at: usize, values: &[f32]) {
        let to = at..at + values.len();
        match self {
            Self::F32(v) => v[to].copy_from_slice(values),
            Self::F16(v) => v[to].reinterpret_cast_mut::<f16>().convert_from_f32_slice(values),
            Self::BF16(v) => {
                for (out, &value) in v[to].iter_mut().zip(values) {
                    *out = bf16::from_f32(value).to_bits();
                }
            }
        }
    }
}

/// IEEE binary16 to binary32 without a branch, so that loops over it vectorise.
#[inline(always)]
pub(super) fn widen_f16(h: u16) -> f32 {
    let sign = u32::from(h & 0x8000) << 16;
    let rest = u32::from(h & 0x7fff) << 13;
    // Reading the shifted bits as binary32 is off by 2^112; multiplying also normalises subnormals.
    let value = f32::from_bits(rest) * f32::from_bits((127 + 112) << 23);
    let special = if h & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(value.to_bits() | special | sign)
}

/// A stored type, as kernels are generic over it.
pub(super) trait Element {
    type Raw: Copy + Default + Send + Sync;

    /// # Safety
    /// `N` values are readable at `p`.
    unsafe fn load<S: Simd>(s: S, p: *const Self::Raw) -> S::V;

    /// The first `len < N` lanes; the others are zero.
    ///
    /// # Safety
    /// `len` values are readable at `p`.
    #[inline(always)]
    unsafe fn load_part<S: Simd>(s: S, p: *const Self::Raw, len: usize) -> S::V {
        let mut part = [Self::Raw::default(); LANES];
        for (i, value) in part.iter_mut().enumerate().take(len) {
            // SAFETY: i < len.
            *value = unsafe { p.add(i).read() };
        }
        // SAFETY: `part` holds at least `N` values.
        unsafe { Self::load(s, part.as_ptr()) }
    }
}

/// The kinds of [`Floats`] as types.
pub(super) struct F32;
pub(super) struct F16;
pub(super) struct BF16;

impl Element for F32 {
    type Raw = f32;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const f32) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load(p) }
    }
}

impl Element for F16 {
    type Raw = u16;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u16) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load_f16(p) }
    }
}

impl Element for BF16 {
    type Raw = u16;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u16) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load_bf16(p) }
    }
}
