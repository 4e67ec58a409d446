//! Qwen3 (arXiv:2505.09388): Llama with an RMS norm on each query and key head before rotation; the head
//! width is free of the hidden size.

use crate::array::MLXArray;
use crate::error::Result;
use crate::io::ModelConfig;
use crate::nn::{Decoder, Heads, Linear, Linears, RmsNorm, Rope, SelfAttention, Step, Weights};

/// Qwen3.
pub(crate) type Qwen3 = Decoder<Attention>;

/// Its attention.
pub(crate) struct Attention {
    qkv_proj: Linears<3>,
    o_proj: Linear,
    q_norm: RmsNorm,
    k_norm: RmsNorm,
    rope: Rope,
    heads: Heads,
}

impl SelfAttention for Attention {
    fn load(weights: &mut Weights<'_>, path: &str, config: &ModelConfig, layer: usize) -> Result<Self> {
        let heads = Heads::new(config, layer);
        let (hidden, q, kv) = (config.hidden_size, heads.q_width(), heads.kv_width());
        let (bias, head_dim, eps) = (config.attention_bias, config.head_dim, config.rms_norm_eps);
        Ok(Self {
            qkv_proj: Linears::load(
                weights,
                path,
                [("q_proj", q), ("k_proj", kv), ("v_proj", kv)],
                hidden,
                bias,
            )?,
            o_proj: Linear::load(weights, &format!("{path}.o_proj"), (hidden, q), bias)?,
            q_norm: RmsNorm::load(weights, &format!("{path}.q_norm"), head_dim, eps)?,
            k_norm: RmsNorm::load(weights, &format!("{path}.k_norm"), head_dim, eps)?,
            rope: Rope::new(&config.rope, config, weights.device())?,
            heads,
        })
    }

    fn forward(&self, x: &MLXArray, step: &Step<'_>) -> MLXArray {
        let [q, k, v] = self.qkv_proj.forward(x); // [t, heads * head_dim], twice [t, kv_heads * head_dim]
        let q = self.heads.split(&q); // [t, heads, head_dim]
        let k = self.heads.split(&k); // [t, kv_heads, head_dim]
        let q = self.rope.forward(&self.q_norm.forward(&q), step.places); // [t, heads, head_dim]
        let k = self.rope.forward(&self.k_norm.forward(&k), step.places); // [t, kv_heads, head_dim]
        let o = self.heads.attend(&q, &k, &v, step); // [t, heads * head_dim]
        self.o_proj.forward(&o) // [t, hidden]
    }

    fn project(&self, o: &MLXArray) -> MLXArray {
        self.o_proj.forward(o)
    }
}
