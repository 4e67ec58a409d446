//! The closed set of primitives: the only operations that need a meaning of their own.
//!
//! Everything else (see [`crate::Op`]) is a formula of these. The reference interpreter knows these and
//! nothing more; the planner prints WGSL for these and nothing more. [`Fun`] is a table: one row per
//! scalar function gives the closure that defines it and its WGSL spelling.

use crate::dtype::Dtype;
use crate::layout::Layout;

/// One primitive. Shapes and dtypes follow from the inputs; `array.rs` holds the rules.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Prim {
    /// `0, 1, 2, ...` as u32; no inputs, shape `[n]`.
    Iota,
    /// The same values in another dtype.
    Cast(Dtype),
    /// A scalar function of one or two inputs of the same shape.
    Map(Fun),
    /// `(condition u32, a, b)`: `a` where the condition is not 0, else `b`.
    Select,
    /// Folds one axis to size 1.
    Reduce(Fold, usize),
    /// The same elements, addressed differently.
    View(Layout),
    /// `(x, indices u32)`: `indices`' shape replaces the axis. An index past the end reads 0.
    Gather(usize),
    /// `(base, rows, indices [n] u32)`: `base` with its entries `indices[i]` along axis 0 replaced by
    /// `rows[i]`; an index past the end is skipped.
    Write,
    /// `[.., m, k] x [.., k, n] -> [.., m, n]`, leading axes equal.
    Matmul,
    /// The `k` greatest of the last axis, descending.
    TopK(usize),
}

/// How `Reduce` combines elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fold {
    Sum,
    Max,
    Min,
}

/// What a scalar function does to the dtype.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Typing {
    /// Float in, float out.
    Float,
    /// Any 32-bit type in, the same out.
    Same,
    /// Two alike in, u32 0 or 1 out.
    Compare,
    /// u32 in, u32 out.
    Bits,
}

/// One row of the function table.
pub(crate) struct Row {
    pub(crate) fun: Fun,
    pub(crate) arity: usize,
    pub(crate) typing: Typing,
    /// The definition on f32.
    pub(crate) f32: fn(f32, f32) -> f32,
    /// The definition on u32.
    pub(crate) u32: fn(u32, u32) -> u32,
    /// WGSL, with `a` and `b` for the arguments.
    pub(crate) wgsl: &'static str,
}

macro_rules! functions {
    ($($name:ident $arity:literal $typing:ident $wgsl:literal $f32:expr, $u32:expr;)*) => {
        /// A scalar function.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(crate) enum Fun { $($name),* }

        /// Every function, in the order of [`Fun`].
        pub(crate) const FUNCTIONS: &[Row] = &[$(Row {
            fun: Fun::$name, arity: $arity, typing: Typing::$typing, f32: $f32, u32: $u32, wgsl: $wgsl,
        }),*];
    };
}

fn none(_: u32, _: u32) -> u32 {
    0
}

functions! {
    Add   2 Same    "(a + b)"            |a, b| a + b,            |a, b| a.wrapping_add(b);
    Sub   2 Same    "(a - b)"            |a, b| a - b,            |a, b| a.wrapping_sub(b);
    Mul   2 Same    "(a * b)"            |a, b| a * b,            |a, b| a.wrapping_mul(b);
    Div   2 Float   "(a / b)"            |a, b| a / b,            none;
    Max   2 Same    "max(a, b)"          |a, b| a.max(b),         |a, b| a.max(b);
    Min   2 Same    "min(a, b)"          |a, b| a.min(b),         |a, b| a.min(b);
    Neg   1 Float   "(-a)"               |a, _| -a,               none;
    Abs   1 Float   "abs(a)"             |a, _| a.abs(),          none;
    Exp   1 Float   "exp(a)"             |a, _| a.exp(),          none;
    Log   1 Float   "log(a)"             |a, _| a.ln(),           none;
    Sqrt  1 Float   "sqrt(a)"            |a, _| a.sqrt(),         none;
    Rsqrt 1 Float   "inverseSqrt(a)"     |a, _| 1.0 / a.sqrt(),   none;
    Sin   1 Float   "sine(a)"            |a, _| f64::from(a).sin() as f32, none;
    Cos   1 Float   "cosine(a)"          |a, _| f64::from(a).cos() as f32, none;
    Tanh  1 Float   "tanh(clamp(a, -20.0, 20.0))" |a, _| a.tanh(), none;
    Erf   1 Float   "erf(a)"             |a, _| erf(f64::from(a)) as f32, none;
    Floor 1 Float   "floor(a)"           |a, _| a.floor(),        none;
    Lt    2 Compare "select(0u, 1u, a < b)"  |a, b| f32::from(u8::from(a < b)),  |a, b| u32::from(a < b);
    Le    2 Compare "select(0u, 1u, a <= b)" |a, b| f32::from(u8::from(a <= b)), |a, b| u32::from(a <= b);
    Eq    2 Compare "select(0u, 1u, a == b)" |a, b| f32::from(u8::from(a == b)), |a, b| u32::from(a == b);
    And   2 Bits    "(a & b)"            |_, _| 0.0,              |a, b| a & b;
    Or    2 Bits    "(a | b)"            |_, _| 0.0,              |a, b| a | b;
    Shl   2 Bits    "select(a << (b & 31u), 0u, b > 31u)" |_, _| 0.0, |a, b| a.checked_shl(b).unwrap_or(0);
    Shr   2 Bits    "select(a >> (b & 31u), 0u, b > 31u)" |_, _| 0.0, |a, b| a.checked_shr(b).unwrap_or(0);
}

impl Fun {
    /// This function's row of the table.
    pub(crate) fn row(self) -> &'static Row {
        let row = &FUNCTIONS[self as usize];
        debug_assert_eq!(row.fun, self, "the table is in the order of the enum");
        row
    }
}

/// The error function by its Maclaurin series, and by its continued fraction where that converges faster
/// (Abramowitz and Stegun 7.1.6 and 7.1.14); full f64 precision.
fn erf(x: f64) -> f64 {
    let a = x.abs();
    let value = if a < 2.5 {
        let mut term = a;
        let mut sum = a;
        for n in 1..80 {
            let n = f64::from(n);
            term *= 2.0 * a * a / (2.0 * n + 1.0);
            sum += term;
        }
        2.0 / std::f64::consts::PI.sqrt() * (-a * a).exp() * sum
    } else {
        let mut tail = a;
        for n in (1..60).rev() {
            tail = a + f64::from(n) / 2.0 / tail;
        }
        1.0 - (-a * a).exp() / (tail * std::f64::consts::PI.sqrt())
    };
    value.copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_enum() {
        for (i, row) in FUNCTIONS.iter().enumerate() {
            assert_eq!(row.fun as usize, i);
            let takes_two = row.wgsl.contains(" b") || row.wgsl.contains("(b");
            assert!(row.wgsl.contains('a') && (row.arity == 2) == takes_two, "{:?}", row.fun);
        }
    }

    #[test]
    fn erf_matches_tabled_values() {
        for (x, y) in [(0.0, 0.0), (0.5, 0.520_499_877_813_046_5), (1.0, 0.842_700_792_949_714_9)] {
            assert!((erf(x) - y).abs() < 1e-15 && (erf(-x) + y).abs() < 1e-15);
        }
        assert!((erf(2.5) - 0.999_593_047_982_555).abs() < 1e-14);
        assert!((erf(3.0) - 0.999_977_909_503_001_4).abs() < 1e-15);
    }
}
