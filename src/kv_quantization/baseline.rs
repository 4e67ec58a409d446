//! What other engines do to keys and values, as formulas over an f32 cache: to compare accuracy with.

use crate::array::MLXArray;
use crate::dtype::Dtype;
use crate::ops;

/// A scheme to compare with: groups of 32 values with one f16 scale, as in llama.cpp.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Baseline {
    /// 8 bits, symmetric.
    Q8_0,
    /// 4 bits, the greatest value exact.
    Q4_0,
    /// The same of rotated heads.
    RotatedQ4_0,
}

impl Baseline {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
            Self::RotatedQ4_0 => "q4_0-rotated",
        }
    }

    /// Rows `[t, heads * d]` as they come back from such a cache.
    pub(super) fn round(self, rows: &MLXArray, d: usize) -> MLXArray {
        let [t, width] = [rows.dims()[0], rows.dims()[1]];
        let turn = |x: &MLXArray, inverse| {
            let heads = x.reshape(&[t, width / d, d]);
            MLXArray::apply(ops::Rotate { inverse }, &[&heads])
        };
        let rotated = self == Self::RotatedQ4_0;
        let x = if rotated { turn(rows, false) } else { rows.clone() };
        let x = x.reshape(&[t * width / 32, 32]);
        let half = |x: &MLXArray| x.astype(Dtype::F16).astype(Dtype::F32);
        let (zero, one) = (MLXArray::scalar(0.0), MLXArray::scalar(1.0));
        let most = x.abs().max(1);
        let scale = match self {
            Self::Q8_0 => &most * (1.0 / 127.0),
            _ => {
                let positive = most.equal(&x.max(1));
                (&most * (-1.0 / 8.0)).where_(&positive, &(&most * (1.0 / 8.0)))
            }
        };
        let inverse = &one / &one.where_(&most.equal(&zero), &scale);
        let codes = (&(&x * &inverse) + 0.5).floor();
        let codes = match self {
            Self::Q8_0 => codes,
            _ => codes.minimum(&MLXArray::scalar(7.0)).maximum(&MLXArray::scalar(-8.0)),
        };
        let y = (&codes * &half(&scale)).reshape(&[t, width]);
        if rotated { turn(&y, true).reshape(&[t, width]) } else { y }
    }
}
