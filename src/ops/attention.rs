//! Causal attention with grouped queries over a key-value cache, optionally within a sliding window.

use super::native;
use crate::array::MLXArray;
use crate::dtype::Dtype;
use crate::op::{Case, CpuKernel, Fill, Op, Spec, Word};
use std::sync::Arc;

/// `[q [t, heads, d] f32, k [cap, kv_heads * d], v like k, positions [t] u32] -> [t, heads, d]`
///
/// `softmax(scale * q k^T) v` per head; query `i` sees the keys `j <= positions[i]`, within a window of
/// `w` only those with `j + w > positions[i]`. Heads `h * group .. (h + 1) * group` share the keys of
/// head `h`, `group = heads / kv_heads`.
#[derive(Clone, Debug)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Factor of the scores, usually `1 / sqrt(d)`.
    pub scale: f32,
    /// How many latest keys are seen; all if none.
    pub window: Option<usize>,
}

/// Scores of keys that are not seen: finite, for shaders are compiled with fast math.
const UNSEEN: f32 = -3.0e38;

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn words(&self) -> Vec<Word> {
        let window = self.window.map_or(Word::U32(0), Word::from);
        vec![self.heads.into(), self.kv_heads.into(), self.scale.into(), window]
    }

    fn meaning(&self, inputs: &[MLXArray]) -> MLXArray {
        let (q, k, v, positions) = (&inputs[0], &inputs[1], &inputs[2], &inputs[3]);
        let [t, heads, d] = *q.dims() else { panic!("attention of {}", q.spec()) };
        let cap = k.dims()[0];
        let fits = heads == self.heads
            && heads % self.kv_heads == 0
            && k.dims() == [cap, self.kv_heads * d]
            && v.spec() == k.spec()
            && positions.dims() == [t];
        assert!(fits, "{self:?} of {}, {}, {}, {}", q.spec(), k.spec(), v.spec(), positions.spec());

        let group = heads / self.kv_heads;
        let by_head =
            |x: &MLXArray| x.astype(Dtype::F32).reshape(&[cap, self.kv_heads, d]).transpose(&[1, 0, 2]);
        let q = q.transpose(&[1, 0, 2]).reshape(&[self.kv_heads, group * t, d]);
        let scores = (q.matmul(&by_head(k).t()) * self.scale).reshape(&[self.kv_heads, group, t, cap]);

        let (j, at) = (MLXArray::iota(cap), positions.reshape(&[t, 1]));
        let mut seen = j.less_equal(&at);
        if let Some(window) = self.window {
            let window = MLXArray::scalar_u32(u32::try_from(window).unwrap_or(u32::MAX >> 1));
            seen = &seen & &at.less(&(&j + &window));
        }
        let p = scores.where_(&seen, &MLXArray::scalar(UNSEEN)).softmax(3);
        let y = p.reshape(&[self.kv_heads, group * t, cap]).matmul(&by_head(v));
        y.reshape(&[heads, t, d]).transpose(&[1, 0, 2])
    }

    fn cpu(&self, specs: &[Spec]) -> Option<CpuKernel> {
        native::attention(self, specs)
    }
}

/// Sizes worth testing.
pub(super) fn cases() -> Vec<Case> {
    struct Shape(usize, usize, usize, usize);
    let case = |Shape(heads, kv_heads, d, cap): Shape, positions: &[u32], window, dtype| {
        let t = positions.len();
        let cache = Fill::Normal(Spec::new(&[cap, kv_heads * d], dtype));
        Case {
            op: Arc::new(Attention { heads, kv_heads, scale: 1.0 / (d as f32).sqrt(), window }),
            inputs: vec![
                Fill::Normal(Spec::new(&[t, heads, d], Dtype::F32)),
                cache.clone(),
                cache,
                Fill::U32(vec![t], positions.to_vec()),
            ],
            reduction: cap + d,
        }
    };
    let block = |from: u32, len: u32| (from..from + len).collect::<Vec<_>>();
    vec![
        // Decode.
        case(Shape(4, 2, 64, 40), &[21], None, Dtype::F16),
        case(Shape(4, 4, 128, 40), &[0], None, Dtype::F32),
        case(Shape(6, 2, 80, 1500), &[1203], None, Dtype::F16),
        case(Shape(8, 1, 96, 700), &[699], Some(100), Dtype::F16),
        case(Shape(2, 1, 256, 300), &[280], None, Dtype::F32),
        case(Shape(3, 1, 10, 600), &[514, 515, 516], Some(600), Dtype::F32),
        case(Shape(2, 2, 64, 520), &[100], None, Dtype::BF16),
        // Prefill.
        case(Shape(4, 2, 64, 128), &block(0, 33), None, Dtype::F16),
        case(Shape(2, 1, 80, 90), &block(7, 70), Some(16), Dtype::F32),
        case(Shape(3, 3, 128, 64), &block(20, 20), None, Dtype::F16),
        case(Shape(2, 2, 256, 40), &block(0, 17), Some(5), Dtype::F16),
        case(Shape(1, 1, 6, 40), &block(2, 9), None, Dtype::BF16),
    ]
}
