//! AVX-512 and AVX2.

use super::simd::{Kernel, Simd};
use std::arch::x86_64::*;

pub(super) fn has_avx512() -> bool {
    has_avx2()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
}

pub(super) fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

/// # Safety
/// [`has_avx512`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
pub(super) unsafe fn avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512(()))
}

/// # Safety
/// [`has_avx2`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2(()))
}

/// Sixteen lanes. Made only where they are, so a value proves that the instructions are there.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

impl Avx512 {
    /// For functions that are compiled for AVX-512 themselves.
    ///
    /// # Safety
    /// [`has_avx512`].
    #[inline(always)]
    pub(super) unsafe fn assume() -> Self {
        Self(())
    }
}

/// Eight lanes. Made only by [`avx2`].
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

macro_rules! lanewise {
    ($($name:ident($($arg:ident),+) = $value:expr;)+) => {$(
        #[inline(always)]
        fn $name(self, $($arg: Self::V),+) -> Self::V {
            // SAFETY: `self` proves that the instructions are there.
            unsafe { $value }
        }
    )+};
}

/// For each lane, which two bytes of a packed run hold its code (and zeros above them), as `pshufb` wants it.
const fn windows<const LANES: usize>(bits: usize) -> [[u8; 4]; LANES] {
    let mut out = [[0x80; 4]; LANES];
    let mut l = 0;
    while l < LANES {
        let byte = (l * bits / 8) as u8;
        out[l] = [byte, byte + 1, 0x80, 0x80];
        l += 1;
    }
    out
}

/// For each lane, by how many bits its code is shifted within its window of `window` bits.
const fn shifts<const LANES: usize>(bits: usize, window: usize) -> [i32; LANES] {
    let mut out = [0; LANES];
    let mut l = 0;
    while l < LANES {
        out[l] = (l * bits % window) as i32;
        l += 1;
    }
    out
}

/// The codes as numbers: entry `i` is `i` without the bits above `bits`.
const fn table<const ENTRIES: usize>(bits: usize) -> [f32; ENTRIES] {
    let mut out = [0.0; ENTRIES];
    let mut i = 0;
    while i < ENTRIES {
        out[i] = (i & ((1 << bits) - 1)) as f32;
        i += 1;
    }
    out
}

impl Simd for Avx512 {
    type V = __m512;
    const N: usize = 16;
    const TILE: usize = 6;

    lanewise! {
        add(a, b) = _mm512_add_ps(a, b);
        sub(a, b) = _mm512_sub_ps(a, b);
        mul(a, b) = _mm512_mul_ps(a, b);
        div(a, b) = _mm512_div_ps(a, b);
        max(a, b) = _mm512_max_ps(a, b);
        min(a, b) = _mm512_min_ps(a, b);
        fma(a, b, c) = _mm512_fmadd_ps(a, b, c);
        round(a) = _mm512_roundscale_ps::<0>(a);
        exp2(a) = _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_add_epi32(_mm512_cvtps_epi32(a), _mm512_set1_epi32(127))));
    }

    #[inline(always)]
    fn splat(self, a: f32) -> Self::V {
        // SAFETY: `self` proves that the instructions are there.
        unsafe { _mm512_set1_ps(a) }
    }

    #[inline(always)]
    fn sums(self, [a, b, c, d]: [Self::V; 4]) -> [f32; 4] {
        let mut out = [0.0; 4];
        // SAFETY: `self` proves that the instructions are there; `out` holds four values.
        unsafe {
            // Transpose and add: two vectors, then four, then the four quarters.
            let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
            let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
            let lo = _mm512_shuffle_ps::<0b01_00_01_00>(ab, cd);
            let hi = _mm512_shuffle_ps::<0b11_10_11_10>(ab, cd);
            let all = _mm512_add_ps(lo, hi);
            let half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps::<1>(all));
            let quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps::<1>(half));
            _mm_storeu_ps(out.as_mut_ptr(), quarter);
        }
        out
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::V {
        // SAFETY: the caller has sixteen readable values.
        unsafe { _mm512_loadu_ps(p) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> Self::V {
        // SAFETY: as in `load`.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u16) -> Self::V {
        // SAFETY: as in `load`.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, a: Self::V) {
        // SAFETY: the caller has sixteen writable values.
        unsafe { _mm512_storeu_ps(p, a) }
    }

    #[inline(always)]
    unsafe fn codes<const BITS: usize>(self, p: *const u8) -> Self::V {
        // A table look-up reads only the low bits of its index: it masks and converts at once, and what a
        // rotation brings in above does no harm.
        // SAFETY: the caller has `SLACK` readable bytes; constants are as long as the vectors read from them.
        unsafe {
            match BITS {
                2 => {
                    let run = _mm512_set1_epi32(p.cast::<i32>().read_unaligned());
                    let codes = _mm512_rorv_epi32(run, vector(const { &shifts::<16>(2, 32) }));
                    _mm512_permutexvar_ps(codes, vector_ps(const { &table::<16>(2) }))
                }
                4 => {
                    // Even lanes shift the first word, odd lanes the second: see `lane`.
                    const SHIFTS: [i32; 16] = [0, 0, 4, 4, 8, 8, 12, 12, 16, 16, 20, 20, 24, 24, 28, 28];
                    let run = _mm512_set1_epi64(p.cast::<i64>().read_unaligned());
                    let codes = _mm512_rorv_epi32(run, vector(&SHIFTS));
                    _mm512_permutexvar_ps(codes, vector_ps(const { &table::<16>(4) }))
                }
                8 => _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()))),
                _ => {
                    let run = _mm512_broadcast_i32x4(_mm_loadu_si128(p.cast()));
                    let bytes = _mm512_shuffle_epi8(run, vector(const { &windows::<16>(BITS) }));
                    let codes = _mm512_rorv_epi32(bytes, vector(const { &shifts::<16>(BITS, 8) }));
                    let low = vector_ps(const { &table::<16>(if BITS == 3 { 3 } else { 4 }) });
                    match BITS {
                        3 => _mm512_permutexvar_ps(codes, low),
                        5 => {
                            let high = _mm512_add_ps(low, _mm512_set1_ps(16.0));
                            _mm512_permutex2var_ps(low, codes, high)
                        }
                        _ => _mm512_cvtepi32_ps(_mm512_and_si512(codes, _mm512_set1_epi32((1 << BITS) - 1))),
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn lane(bits: usize, l: usize) -> usize {
        if bits == 4 { l % 2 * 8 + l / 2 } else { l }
    }

    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        // SAFETY: a prefetch touches nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
}

/// # Safety
/// AVX-512, and `T` is 64 bytes of plain data.
#[inline(always)]
unsafe fn vector<T>(constant: &'static T) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe { _mm512_loadu_si512(std::ptr::from_ref(constant).cast()) }
}

/// # Safety
/// AVX-512.
#[inline(always)]
unsafe fn vector_ps(constant: &'static [f32; 16]) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe { _mm512_loadu_ps(constant.as_ptr()) }
}

impl Simd for Avx2 {
    type V = __m256;
    const N: usize = 8;
    const TILE: usize = 3;

    lanewise! {
        add(a, b) = _mm256_add_ps(a, b);
        sub(a, b) = _mm256_sub_ps(a, b);
        mul(a, b) = _mm256_mul_ps(a, b);
        div(a, b) = _mm256_div_ps(a, b);
        max(a, b) = _mm256_max_ps(a, b);
        min(a, b) = _mm256_min_ps(a, b);
        fma(a, b, c) = _mm256_fmadd_ps(a, b, c);
        round(a) = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
        exp2(a) = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(a), _mm256_set1_epi32(127))));
    }

    #[inline(always)]
    fn splat(self, a: f32) -> Self::V {
        // SAFETY: `self` proves that the instructions are there.
        unsafe { _mm256_set1_ps(a) }
    }

    #[inline(always)]
    fn sums(self, [a, b, c, d]: [Self::V; 4]) -> [f32; 4] {
        let mut out = [0.0; 4];
        // SAFETY: `self` proves that the instructions are there; `out` holds four values.
        unsafe {
            let all = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
            let half = _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps::<1>(all));
            _mm_storeu_ps(out.as_mut_ptr(), half);
        }
        out
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::V {
        // SAFETY: the caller has eight readable values.
        unsafe { _mm256_loadu_ps(p) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> Self::V {
        // SAFETY: as in `load`.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u16) -> Self::V {
        // SAFETY: as in `load`.
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, a: Self::V) {
        // SAFETY: the caller has eight writable values.
        unsafe { _mm256_storeu_ps(p, a) }
    }

    #[inline(always)]
    unsafe fn codes<const BITS: usize>(self, p: *const u8) -> Self::V {
        // SAFETY: the caller has `SLACK` readable bytes; constants are as long as the vectors read from them.
        unsafe {
            let codes = match BITS {
                2..=4 => {
                    let run = _mm256_set1_epi32(p.cast::<i32>().read_unaligned());
                    let shifts = const { &shifts::<8>(BITS, 32) };
                    _mm256_srlv_epi32(run, _mm256_loadu_si256(shifts.as_ptr().cast()))
                }
                8 => return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast()))),
                _ => {
                    let windows = const { &windows::<8>(BITS) };
                    let shifts = const { &shifts::<8>(BITS, 8) };
                    let run = _mm256_broadcastsi128_si256(_mm_loadu_si128(p.cast()));
                    let bytes = _mm256_shuffle_epi8(run, _mm256_loadu_si256(windows.as_ptr().cast()));
                    _mm256_srlv_epi32(bytes, _mm256_loadu_si256(shifts.as_ptr().cast()))
                }
            };
            _mm256_cvtepi32_ps(_mm256_and_si256(codes, _mm256_set1_epi32((1 << BITS) - 1)))
        }
    }

    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        // SAFETY: a prefetch touches nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
}
