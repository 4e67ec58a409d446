//! Attention over a cache: what is left of it when the projections are the paper's business.

use crate::array::MLXArray;
use crate::io::ModelConfig;
use crate::kv_quantization::KvCache;
use crate::ops;
use std::cell::RefCell;

/// What one pass through the layers sees besides its tokens.
pub(crate) struct Step<'a> {
    /// Place of each token, `[t, 2]` u32: its position in its sequence, and the logical row at which
    /// the sequence begins. Tokens of one sequence stand at consecutive positions.
    pub(crate) places: &'a MLXArray,
    /// Keys and values of earlier tokens; those of these tokens are written on the way.
    pub(crate) cache: &'a KvCache,
    /// Where each layer leaves its rotated queries `[t, heads, head_dim]`, if somebody wants them.
    pub(crate) queries: Option<&'a RefCell<Vec<MLXArray>>>,
}

/// Grouped-query attention of one layer, causal, within a window if there is one.
pub(crate) struct Heads {
    layer: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    window: Option<usize>,
}

impl Heads {
    pub(crate) fn new(config: &ModelConfig, layer: usize) -> Self {
        Self {
            layer,
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            window: config.window(layer),
        }
    }

    /// Width of all query heads.
    pub(crate) fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all key heads, or of all value heads.
    pub(crate) fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// `[t, n * head_dim] -> [t, n, head_dim]`
    pub(crate) fn split(&self, x: &MLXArray) -> MLXArray {
        let [t, width] = [x.dims()[0], x.dims()[1]];
        x.reshape(&[t, width / self.head_dim, self.head_dim])
    }

    /// Writes keys and values into the cache, then `softmax(q k^T / sqrt(head_dim)) v` over all that this
    /// layer may see. `q` `[t, heads, head_dim]`, `k` `[t, kv_heads, head_dim]`, `v` `[t, kv_width]` ->
    /// `[t, q_width]`.
    pub(crate) fn attend(&self, q: &MLXArray, k: &MLXArray, v: &MLXArray, step: &Step<'_>) -> MLXArray {
        let t = q.dims()[0];
        let k = k.reshape(&[t, self.kv_width()]); // [t, kv_width]
        let (keys, values) = step.cache.write(self.layer, &k, v, step.places); // [rows, kv_width]
        if let Some(queries) = step.queries {
            queries.borrow_mut().push(q.clone());
        }
        let op = ops::Attention {
            heads: self.heads,
            kv_heads: self.kv_heads,
            scale: (1.0 / (self.head_dim as f64).sqrt()) as f32,
            window: self.window,
            slots: step.cache.slots(),
            packed: step.cache.packing(self.layer),
        };
        let q = step.cache.turn(self.layer, q, false);
        let o = MLXArray::apply(op, &[&q, &keys, &values, step.places, step.cache.table(self.layer)]);
        let o = step.cache.turn(self.layer, &o, true); // [t, heads, head_dim]
        o.reshape(&[t, self.q_width()])
    }
}
