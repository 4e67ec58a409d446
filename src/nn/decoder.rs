//! The pre-norm decoder that Llama made the standard: all but its attention.
//!
//! ```text
//! x = embed(ids)
//! for each layer:  x += attention(norm(x));  x += mlp(norm(x))
//! logits = head(norm(x))
//! ```

use super::attention::Step;
use super::linear::{Embedding, Linear};
use super::mlp::Mlp;
use super::norm::RmsNorm;
use super::weights::Weights;
use crate::array::MLXArray;
use crate::error::{Error, Result};
use crate::io::ModelConfig;

/// The attention of one architecture.
pub(crate) trait SelfAttention: Sized + Send + Sync {
    /// Loads `<path>.q_proj.weight` and so on.
    fn load(weights: &mut Weights<'_>, path: &str, config: &ModelConfig, layer: usize) -> Result<Self>;

    /// `[t, hidden] -> [t, hidden]`
    fn forward(&self, x: &MLXArray, step: &Step<'_>) -> MLXArray;

    /// The last linear layer alone, `[t, heads * head_dim] -> [t, hidden]`
    fn project(&self, o: &MLXArray) -> MLXArray;
}

struct Layer<A> {
    input_layernorm: RmsNorm,
    self_attn: A,
    post_attention_layernorm: RmsNorm,
    mlp: Mlp,
}

impl<A: SelfAttention> Layer<A> {
    fn load(weights: &mut Weights<'_>, config: &ModelConfig, layer: usize) -> Result<Self> {
        let path = |field: &str| format!("model.layers.{layer}.{field}");
        let (hidden, eps) = (config.hidden_size, config.rms_norm_eps);
        let norm = |weights: &mut Weights<'_>, field| RmsNorm::load(weights, &path(field), hidden, eps);
        Ok(Self {
            input_layernorm: norm(weights, "input_layernorm")?,
            self_attn: A::load(weights, &path("self_attn"), config, layer)?,
            post_attention_layernorm: norm(weights, "post_attention_layernorm")?,
            mlp: Mlp::load(weights, &path("mlp"), config)?,
        })
    }

    /// `[t, hidden] -> [t, hidden]`
    fn forward(&self, x: &MLXArray, step: &Step<'_>) -> MLXArray {
        let h = x + &self.self_attn.forward(&self.input_layernorm.forward(x), step);
        &h + &self.mlp.forward(&self.post_attention_layernorm.forward(&h))
    }
}

/// Embedding, layers, last norm and head.
pub(crate) struct Decoder<A> {
    embed_tokens: Embedding,
    layers: Vec<Layer<A>>,
    norm: RmsNorm,
    lm_head: Linear,
}

impl<A: SelfAttention> Decoder<A> {
    /// # Errors
    /// A tensor that is missing or has another shape than the configuration demands; layers that it does not know.
    pub(crate) fn load(weights: &mut Weights<'_>, config: &ModelConfig) -> Result<Self> {
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        let layers = config.num_hidden_layers;
        if weights.has_under(&format!("model.layers.{layers}.")) {
            let message =
                format!("config.json: `num_hidden_layers` is {layers}, but there are weights of more");
            return Err(Error::format(message));
        }
        let embed_tokens = Embedding::load(weights, "model.embed_tokens", vocab, hidden)?;
        let layers = (0..layers).map(|i| Layer::load(weights, config, i));
        let layers = layers.collect::<Result<_>>()?;
        let norm = RmsNorm::load(weights, "model.norm", hidden, config.rms_norm_eps)?;
        let lm_head = if config.tie_word_embeddings {
            embed_tokens.as_linear()
        } else {
            Linear::load(weights, "lm_head", (vocab, hidden), false)?
        };
        Ok(Self { embed_tokens, layers, norm, lm_head })
    }

    /// `ids` `[t]` u32 -> `[t, hidden]`
    pub(crate) fn hidden(&self, ids: &MLXArray, step: &Step<'_>) -> MLXArray {
        let embedded = self.embed_tokens.forward(ids);
        self.layers.iter().fold(embedded, |x, layer| layer.forward(&x, step))
    }

    /// A layer's output projection: results of its heads `[t, heads * head_dim] -> [t, hidden]`
    pub(crate) fn project(&self, layer: usize, o: &MLXArray) -> MLXArray {
        self.layers[layer].self_attn.project(o)
    }

    /// The final norm, `[t, hidden] -> [t, hidden]`
    pub(crate) fn normed(&self, hidden: &MLXArray) -> MLXArray {
        self.norm.forward(hidden)
    }

    /// `[t, hidden] -> [t, vocab]`
    pub(crate) fn logits(&self, hidden: &MLXArray) -> MLXArray {
        self.lm_head.forward(&self.norm.forward(hidden))
    }
}
