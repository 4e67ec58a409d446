//! One vocabulary for every vector unit.
//!
//! A kernel is written once, generic over [`Simd`], as the `run` of a [`Kernel`]. [`Level::run`] enters a
//! function compiled for that instruction set and inlines the kernel there, so each level gets its own
//! machine code from one source. Everything on the way is `#[inline(always)]` and free of closures: a
//! function that is not inlined would be compiled without the vector instructions.

use std::sync::OnceLock;

/// Lanes of `f32` and what kernels do with them.
///
/// `max` and `min` answer their second operand when the two do not compare, so a NaN in `b` survives.
pub(super) trait Simd: Copy + Send + Sync {
    /// [`N`](Self::N) lanes.
    type V: Copy;
    /// Lanes of a vector: a divisor of [`LANES`].
    const N: usize;
    /// Activation rows of a register tile (times four weight rows).
    const TILE: usize;

    fn splat(self, a: f32) -> Self::V;
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// a * b + c
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// To the nearest integer.
    fn round(self, a: Self::V) -> Self::V;
    /// 2^a for integers in [-127, 128]; the ends give 0 and infinity.
    fn exp2(self, a: Self::V) -> Self::V;
    /// The sum of each vector's lanes.
    fn sums(self, a: [Self::V; 4]) -> [f32; 4];
    /// The sum of the lanes.
    #[inline(always)]
    fn sum(self, a: Self::V) -> f32 {
        self.sums([a; 4])[0]
    }

    /// # Safety
    /// `N` values are readable at `p`.
    unsafe fn load(self, p: *const f32) -> Self::V;
    /// # Safety
    /// `N` values are readable at `p`.
    unsafe fn load_f16(self, p: *const u16) -> Self::V;
    /// # Safety
    /// `N` values are readable at `p`.
    unsafe fn load_bf16(self, p: *const u16) -> Self::V;
    /// # Safety
    /// `N` values are writable at `p`.
    unsafe fn store(self, p: *mut f32, a: Self::V);
    /// `N` packed codes as numbers; lane `l` is element [`lane`](Self::lane)`(BITS, l)`.
    ///
    /// # Safety
    /// [`SLACK`] bytes are readable at `p`.
    unsafe fn codes<const BITS: usize>(self, p: *const u8) -> Self::V;
    /// Which of `N` consecutive packed elements `codes` puts into a lane.
    #[inline(always)]
    fn lane(_bits: usize, l: usize) -> usize {
        l
    }
    /// Asks for the cache line at `p`; any address will do.
    #[inline(always)]
    fn prefetch(self, _p: *const u8) {}
}

/// The widest vector; rows in scratch memory are padded to a multiple of it.
pub(super) const LANES: usize = 16;
/// Bytes that [`Simd::codes`] may read.
pub(super) const SLACK: usize = 16;

/// Work that is written once for all levels.
pub(super) trait Kernel {
    type Output;
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

/// An instruction set that this processor has: the field is private, so that holding a `Level` proves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Level(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX-512, and tiles for the products that gain by them.
    #[cfg(target_arch = "x86_64")]
    Amx,
}

impl Level {
    /// Every level of this processor, best first.
    pub(super) fn available() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let kinds = [
            super::amx::available().then_some(Kind::Amx),
            super::x86::has_avx512().then_some(Kind::Avx512),
            super::x86::has_avx2().then_some(Kind::Avx2),
            Some(Kind::Portable),
        ];
        #[cfg(not(target_arch = "x86_64"))]
        let kinds = [Some(Kind::Portable)];
        kinds.into_iter().flatten().map(Self)
    }

    /// The best level of this processor.
    pub(super) fn best() -> Self {
        static BEST: OnceLock<Level> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().next().unwrap_or(Self(Kind::Portable)))
    }

    pub(super) fn name(self) -> &'static str {
        match self.0 {
            Kind::Portable if cfg!(target_arch = "aarch64") => "neon",
            Kind::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Kind::Amx => "avx512+amx",
        }
    }

    /// Whether [`amx`](super::amx) may be used.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn has_tiles(self) -> bool {
        self.0 == Kind::Amx
    }

    #[inline]
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Kind::Portable => kernel.run(Portable),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a `Level` of this kind exists only where the processor has the instructions.
            Kind::Avx2 => unsafe { super::x86::avx2(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Kind::Avx512 | Kind::Amx => unsafe { super::x86::avx512(kernel) },
        }
    }
}

/// Plain arrays, for the compiler to vectorise. On aarch64, where NEON is part of the base instruction
/// set, this is the NEON path.
#[derive(Clone, Copy)]
pub(super) struct Portable;

const P: usize = 8;

macro_rules! lanewise {
    ($($name:ident($($arg:ident),+) = $value:expr;)+) => {$(
        #[inline(always)]
        fn $name(self, $($arg: Self::V),+) -> Self::V {
            let mut out = [0.0; P];
            for i in 0..P {
                $(let $arg = $arg[i];)+
                out[i] = $value;
            }
            out
        }
    )+};
}

impl Simd for Portable {
    type V = [f32; P];
    const N: usize = P;
    const TILE: usize = 3;

    lanewise! {
        add(a, b) = a + b;
        sub(a, b) = a - b;
        mul(a, b) = a * b;
        div(a, b) = a / b;
        max(a, b) = if a > b { a } else { b };
        min(a, b) = if a < b { a } else { b };
        // A fused multiply-add in software would be far slower than the two roundings.
        fma(a, b, c) = if cfg!(any(target_arch = "aarch64", target_feature = "fma")) { a.mul_add(b, c) } else { a * b + c };
        // Adding 1.5 * 2^23 leaves no room for a fraction.
        round(a) = (a + 12_582_912.0) - 12_582_912.0;
        exp2(a) = f32::from_bits(((a as i32 + 127) as u32) << 23);
    }

    #[inline(always)]
    fn splat(self, a: f32) -> Self::V {
        [a; P]
    }

    #[inline(always)]
    fn sums(self, a: [Self::V; 4]) -> [f32; 4] {
        let mut out = [0.0; 4];
        for (out, v) in out.iter_mut().zip(a) {
            *out = ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
        }
        out
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::V {
        // SAFETY: the caller has `P` readable values; an array has its element's alignment.
        unsafe { p.cast::<Self::V>().read() }
    }

    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> Self::V {
        // SAFETY: as in `load`.
        let h = unsafe { p.cast::<[u16; P]>().read() };
        let mut out = [0.0; P];
        for i in 0..P {
            out[i] = super::floats::widen_f16(h[i]);
        }
        out
    }

    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u16) -> Self::V {
        // SAFETY: as in `load`.
        let h = unsafe { p.cast::<[u16; P]>().read() };
        let mut out = [0.0; P];
        for i in 0..P {
            out[i] = f32::from_bits(u32::from(h[i]) << 16);
        }
        out
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, a: Self::V) {
        // SAFETY: the caller has `P` writable values.
        unsafe { p.cast::<Self::V>().write(a) }
    }

    #[inline(always)]
    unsafe fn codes<const BITS: usize>(self, p: *const u8) -> Self::V {
        // SAFETY: the caller has `SLACK` readable bytes, more than the eight of a `u64`.
        let word = u64::from_le(unsafe { p.cast::<u64>().read_unaligned() });
        let mut out = [0.0; P];
        for i in 0..P {
            out[i] = ((word >> (i * BITS)) as u32 & ((1 << BITS) - 1)) as f32;
        }
        out
    }
}
