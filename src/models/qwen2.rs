//! Qwen2 and Qwen2.5 (arXiv:2407.10671, 2412.15115): Llama with biases on queries, keys and values, and
//! optionally a sliding window in the layers from `max_window_layers` on.

use crate::array::MLXArray;
use crate::error::Result;
use crate::io::ModelConfig;
use crate::nn::{Decoder, Heads, Linear, Linears, Rope, SelfAttention, Step, Weights};

/// Qwen2.
pub(crate) type Qwen2 = Decoder<Attention>;

/// Its attention.
pub(crate) struct Attention {
    qkv_proj: Linears<3>,
    o_proj: Linear,
    rope: Rope,
    /// Windowed, in the upper layers, if the configuration says so.
    heads: Heads,
}

impl SelfAttention for Attention {
    fn load(weights: &mut Weights<'_>, path: &str, config: &ModelConfig, layer: usize) -> Result<Self> {
        let heads = Heads::new(config, layer);
        let (hidden, q, kv) = (config.hidden_size, heads.q_width(), heads.kv_width());
        Ok(Self {
            qkv_proj: Linears::load(
                weights,
                path,
                [("q_proj", q), ("k_proj", kv), ("v_proj", kv)],
                hidden,
                true,
            )?,
            o_proj: Linear::load(weights, &format!("{path}.o_proj"), (hidden, q), false)?,
            rope: Rope::new(&config.rope, config, weights.device())?,
            heads,
        })
    }

    fn forward(&self, x: &MLXArray, step: &Step<'_>) -> MLXArray {
        let [q, k, v] = self.qkv_proj.forward(x); // [t, heads * head_dim], twice [t, kv_heads * head_dim]
        let q = self.heads.split(&q); // [t, heads, head_dim]
        let k = self.heads.split(&k); // [t, kv_heads, head_dim]
        let q = self.rope.forward(&q, step.places); // [t, heads, head_dim]
        let k = self.rope.forward(&k, step.places); // [t, kv_heads, head_dim]
        let o = self.heads.attend(&q, &k, &v, step); // [t, heads * head_dim]
        self.o_proj.forward(&o) // [t, hidden]
    }

    fn project(&self, o: &MLXArray) -> MLXArray {
        self.o_proj.forward(o)
    }
}
