//! Mistral (arXiv:2310.06825): Llama whose attention sees only the last `sliding_window` positions.

use crate::array::MLXArray;
use crate::error::Result;
use crate::io::ModelConfig;
use crate::nn::{Decoder, Heads, Linear, Rope, SelfAttention, Step, Weights};

/// Mistral.
pub(crate) type Mistral = Decoder<Attention>;

/// Its attention.
pub(crate) struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    rope: Rope,
    /// Windowed, in every layer.
    heads: Heads,
}

impl SelfAttention for Attention {
    fn load(weights: &mut Weights<'_>, path: &str, config: &ModelConfig, layer: usize) -> Result<Self> {
        let heads = Heads::new(config, layer);
        let (hidden, q, kv) = (config.hidden_size, heads.q_width(), heads.kv_width());
        Ok(Self {
            q_proj: Linear::load(weights, &format!("{path}.q_proj"), (q, hidden), false)?,
            k_proj: Linear::load(weights, &format!("{path}.k_proj"), (kv, hidden), false)?,
            v_proj: Linear::load(weights, &format!("{path}.v_proj"), (kv, hidden), false)?,
            o_proj: Linear::load(weights, &format!("{path}.o_proj"), (hidden, q), false)?,
            rope: Rope::new(&config.rope, config, weights.device())?,
            heads,
        })
    }

    fn forward(&self, x: &MLXArray, step: &Step<'_>) -> MLXArray {
        let q = self.heads.split(&self.q_proj.forward(x)); // [t, heads, head_dim]
        let k = self.heads.split(&self.k_proj.forward(x)); // [t, kv_heads, head_dim]
        let v = self.v_proj.forward(x); // [t, kv_heads * head_dim]
        let q = self.rope.forward(&q, step.positions); // [t, heads, head_dim]
        let k = self.rope.forward(&k, step.positions); // [t, kv_heads, head_dim]
        let o = self.heads.attend(&q, &k, &v, step); // [t, heads * head_dim]
        self.o_proj.forward(&o) // [t, hidden]
    }
}
