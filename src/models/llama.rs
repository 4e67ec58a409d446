//! Llama (arXiv:2302.13971, 2307.09288, 2407.21783): grouped-query attention with rotary positions, RMS
//! norm before each half of a layer, SwiGLU.

use crate::array::MLXArray;
use crate::error::Result;
use crate::io::ModelConfig;
use crate::nn::{Decoder, Heads, Linear, Linears, Rope, SelfAttention, Step, Weights};

/// Llama.
pub(crate) type Llama = Decoder<Attention>;

/// Its attention.
pub(crate) struct Attention {
    qkv_proj: Linears<3>,
    o_proj: Linear,
    rope: Rope,
    heads: Heads,
}

impl SelfAttention for Attention {
    fn load(weights: &mut Weights<'_>, path: &str, config: &ModelConfig, layer: usize) -> Result<Self> {
        let heads = Heads::new(config, layer);
        let (hidden, q, kv) = (config.hidden_size, heads.q_width(), heads.kv_width());
        let bias = config.attention_bias;
        Ok(Self {
            qkv_proj: Linears::load(
                weights,
                path,
                [("q_proj", q), ("k_proj", kv), ("v_proj", kv)],
                hidden,
                bias,
            )?,
            o_proj: Linear::load(weights, &format!("{path}.o_proj"), (hidden, q), bias)?,
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
