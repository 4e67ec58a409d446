//! AMX: the tile instructions, and what prepares and takes their operands.
//!
//! A tile is 16 rows of 64 bytes, 1 KiB; in scratch its rows follow one another. The left operand's rows
//! are 32 bf16 along `k`; the right one's are pairs along `k`, for 16 columns; a result's are 16 `f32`.
//! The compiler has no names for the instructions yet, hence assembly.

use std::arch::asm;
use std::arch::x86_64::*;

/// Rows of a tile, and columns of a result tile.
pub(super) const TILE: usize = 16;
/// bf16 columns of a tile: one step along `k`.
pub(super) const STEP: usize = 32;
/// A tile in scratch, in floats.
pub(super) const FLOATS: usize = 256;

/// Whether this processor has bf16 tiles and the system lets this process use them.
#[cfg(target_os = "linux")]
pub(super) fn available() -> bool {
    const REQUEST_PERMISSION: usize = 0x1023;
    const TILE_DATA: usize = 18;
    #[allow(unused_unsafe, reason = "safe in newer compilers only")]
    // SAFETY: AVX-512 is newer than this leaf.
    let features = || unsafe { __cpuid_count(7, 0) }.edx;
    if !super::x86::has_avx512() || features() >> 22 & 1 == 0 || features() >> 24 & 1 == 0 {
        return false;
    }
    let status: isize;
    // SAFETY: `arch_prctl` reads and writes no memory here; a system call changes `rcx` and `r11`.
    unsafe {
        asm!("syscall", inlateout("rax") 158isize => status, in("rdi") REQUEST_PERMISSION, in("rsi") TILE_DATA,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    status == 0
}

#[cfg(not(target_os = "linux"))]
pub(super) fn available() -> bool {
    false
}

/// While it lives, this thread's eight tiles are 16 rows of 64 bytes.
pub(super) struct Tiles;

impl Tiles {
    /// # Safety
    /// [`available`].
    pub(super) unsafe fn configure() -> Self {
        #[repr(C, align(64))]
        struct Config {
            palette: u8,
            start: u8,
            reserved: [u8; 14],
            row_bytes: [u16; 16],
            rows: [u8; 16],
        }
        const fn eight<T: Copy>(value: T, zero: T) -> [T; 16] {
            let mut out = [zero; 16];
            let mut i = 0;
            while i < 8 {
                out[i] = value;
                i += 1;
            }
            out
        }
        static CONFIG: Config =
            Config { palette: 1, start: 0, reserved: [0; 14], row_bytes: eight(64, 0), rows: eight(16, 0) };
        // SAFETY: the caller's promise; 64 bytes are read.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &CONFIG, options(nostack, readonly)) };
        Self
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: a configured thread has the instruction.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// Two tiles of weight rows against `T` of activations, over `count` steps: `out[weights][activations]`,
/// added to if `add`.
///
/// # Safety
/// Tiles are configured; `w` holds `2 * count` tiles, `x` `3 * T * count`, and `out` `2 * T`; `count > 0`.
#[inline(always)]
pub(super) unsafe fn dots<const T: usize>(
    w: *const f32,
    x: *const f32,
    count: usize,
    add: bool,
    out: *mut f32,
) {
    macro_rules! run {
        ($($line:literal),+ $(,)?) => {
            // SAFETY: the caller's promise; tiles are not used outside.
            unsafe {
                asm!($($line),+,
                    w = inout(reg) w => _, x = inout(reg) x => _, count = inout(reg) count => _,
                    add = in(reg) usize::from(add), out = in(reg) out, row = in(reg) 64usize,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack))
            }
        };
    }
    if T == 1 {
        run!(
            "test {add}, {add}",
            "jz 2f",
            "tileloadd tmm0, [{out} + {row}]",
            "tileloadd tmm1, [{out} + {row} + 1024]",
            "jmp 3f",
            "2:",
            "tilezero tmm0",
            "tilezero tmm1",
            "3:",
            "tileloadd tmm4, [{w} + {row}]",
            "tileloadd tmm6, [{x} + {row}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{w} + {row} + 1024]",
            "tdpbf16ps tmm1, tmm5, tmm6",
            "tileloadd tmm7, [{x} + {row} + 1024]",
            "tdpbf16ps tmm0, tmm4, tmm7",
            "tdpbf16ps tmm1, tmm5, tmm7",
            "tileloadd tmm6, [{x} + {row} + 2048]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm5, tmm6",
            "add {w}, 2048",
            "add {x}, 3072",
            "dec {count}",
            "jnz 3b",
            "tilestored [{out} + {row}], tmm0",
            "tilestored [{out} + {row} + 1024], tmm1",
        );
    } else {
        run!(
            "test {add}, {add}",
            "jz 2f",
            "tileloadd tmm0, [{out} + {row}]",
            "tileloadd tmm1, [{out} + {row} + 1024]",
            "tileloadd tmm2, [{out} + {row} + 2048]",
            "tileloadd tmm3, [{out} + {row} + 3072]",
            "jmp 3f",
            "2:",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "3:",
            "tileloadd tmm4, [{w} + {row}]",
            "tileloadd tmm6, [{x} + {row}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{x} + {row} + 1024]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{w} + {row} + 1024]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm6, [{x} + {row} + 2048]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{x} + {row} + 3072]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm6, [{x} + {row} + 4096]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{x} + {row} + 5120]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {w}, 2048",
            "add {x}, 6144",
            "dec {count}",
            "jnz 3b",
            "tilestored [{out} + {row}], tmm0",
            "tilestored [{out} + {row} + 1024], tmm1",
            "tilestored [{out} + {row} + 2048], tmm2",
            "tilestored [{out} + {row} + 3072], tmm3",
        );
    }
}

/// The upper halves of `low` and `high` by turns; `low`'s go first, and `high`'s lower halves are zero.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn interleave(low: __m512i, high: __m512i) -> __m512i {
    _mm512_or_si512(_mm512_srli_epi32::<16>(low), high)
}

/// Rows become columns.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transpose(rows: &mut [__m512; 16]) {
    // 2x2 blocks, then 4x4 within each quarter of a vector, then the quarters.
    let mut pairs = *rows;
    for i in (0..16).step_by(2) {
        pairs[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
    }
    let mut fours = pairs;
    for i in (0..16).step_by(4) {
        for j in 0..2 {
            let (a, b) = (pairs[i + j], pairs[i + j + 2]);
            fours[i + 2 * j] = _mm512_shuffle_ps::<0b01_00_01_00>(a, b);
            fours[i + 2 * j + 1] = _mm512_shuffle_ps::<0b11_10_11_10>(a, b);
        }
    }
    for j in 0..4 {
        let [a, b, c, d] = [fours[j], fours[4 + j], fours[8 + j], fours[12 + j]];
        let (ab_even, ab_odd) =
            (_mm512_shuffle_f32x4::<0b10_00_10_00>(a, b), _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b));
        let (cd_even, cd_odd) =
            (_mm512_shuffle_f32x4::<0b10_00_10_00>(c, d), _mm512_shuffle_f32x4::<0b11_01_11_01>(c, d));
        rows[j] = _mm512_shuffle_f32x4::<0b10_00_10_00>(ab_even, cd_even);
        rows[4 + j] = _mm512_shuffle_f32x4::<0b10_00_10_00>(ab_odd, cd_odd);
        rows[8 + j] = _mm512_shuffle_f32x4::<0b11_01_11_01>(ab_even, cd_even);
        rows[12 + j] = _mm512_shuffle_f32x4::<0b11_01_11_01>(ab_odd, cd_odd);
    }
}
