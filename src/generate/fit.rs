//! What a model needs, from its files alone.

use crate::array::Device;
use crate::io::{Checkpoint, ModelConfig};
use crate::kv_quantization::KvKind;
use crate::nn::Rope;

/// Bytes that a model takes when it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fit {
    /// The weights, packed as in the files.
    pub weights: u64,
    /// Keys and values of the whole context.
    pub cache: u64,
    /// Keys and values of one token, all layers.
    pub cache_per_token: u64,
    /// Activations of the largest prefill chunk, and the logits.
    pub scratch: u64,
    /// Tokens that the figures are for.
    pub context: usize,
    /// Tokens that the model was made for.
    pub most: usize,
}

impl Fit {
    /// What `checkpoint` needs for `context` tokens (its own limit by default) with this kind of cache.
    pub fn of(checkpoint: &Checkpoint, context: Option<usize>, kind: KvKind) -> Self {
        let weights = checkpoint.total_bytes() as u64;
        Self { weights, ..Self::of_config(checkpoint.config(), context, kind) }
    }

    /// The same from a configuration alone; weights count as nothing.
    pub fn of_config(config: &ModelConfig, context: Option<usize>, kind: KvKind) -> Self {
        let most = Rope::context_length(&config.rope, config.max_position_embeddings).unwrap_or(4096);
        let context = context.unwrap_or(most);
        let cache_per_token = kind.bytes_per_token(config.num_key_value_heads, config.head_dim)
            * config.num_hidden_layers as u64;
        let widest = config.intermediate_size.max(config.num_attention_heads * config.head_dim);
        let rows = super::pace::chunk_on(Device::best()).min(context);
        let scratch = 4 * (rows * (4 * config.hidden_size + 4 * widest) + config.vocab_size) as u64;
        Self {
            weights: 0,
            cache: cache_per_token.saturating_mul(context as u64),
            cache_per_token,
            scratch,
            context,
            most,
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.cache).saturating_add(self.scratch)
    }

    /// The longest context within so many bytes, at most the model's own.
    pub fn context_in(&self, bytes: u64) -> usize {
        let rest = bytes.saturating_sub(self.weights + self.scratch);
        ((rest / self.cache_per_token.max(1)) as usize).min(self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cache of 131072 tokens by the allocator's arithmetic, in units of 1e9 bytes.
    #[test]
    fn caches_of_published_models() {
        let config = |layers: usize| {
            let text = format!(
                r#"{{"model_type": "llama", "hidden_size": 4096, "intermediate_size": 8, "vocab_size": 8,
                "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
                "num_hidden_layers": {layers}, "rms_norm_eps": 1e-5, "max_position_embeddings": 131072}}"#
            );
            ModelConfig::parse("config.json", text.as_bytes()).unwrap()
        };
        let gb = |layers, kind| Fit::of_config(&config(layers), Some(131_072), kind).cache as f64 / 1e9;
        // Llama-3.1-8B has 32 layers of this shape, Qwen3-32B 64.
        assert!((gb(32, KvKind::F16) - 17.18).abs() < 0.01);
        assert!(gb(32, KvKind::Int8) <= 9.0 && gb(32, KvKind::Int4) <= 4.7);
        assert!((gb(64, KvKind::F32) - 68.72).abs() < 0.01);
        assert!(gb(64, KvKind::K4V3) <= 8.3, "{}", gb(64, KvKind::K4V3));
    }
}
