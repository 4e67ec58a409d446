//! What a model needs, from its files alone.

use crate::array::Device;
use crate::cpu::PAGE;
use crate::dtype::Dtype;
use crate::io::{Checkpoint, ModelConfig};
use crate::kv_quantization::{KvKind, window_pages};

/// Bytes that a model takes when it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fit {
    /// The weights, packed as in the files.
    pub weights: u64,
    /// Keys and values of the whole context; layers with a sliding window keep little more than that.
    pub cache: u64,
    /// Keys and values of one token, all layers.
    pub cache_per_token: u64,
    /// Activations of the largest prefill chunk, and the logits.
    pub scratch: u64,
    /// Tokens that the figures are for.
    pub context: usize,
    /// Tokens that the model was made for.
    pub context_length: usize,
    /// Tokens that layers with a sliding window keep at most.
    window: usize,
    /// Keys and values of one token in these layers.
    windowed_per_token: u64,
}

impl Fit {
    /// What `checkpoint` needs for `context` tokens (its own limit by default) with this kind of cache.
    pub fn of(checkpoint: &Checkpoint, context: Option<usize>, kind: KvKind) -> Self {
        let weights = checkpoint.total_bytes() as u64;
        Self { weights, ..Self::of_config(checkpoint.config(), context, kind) }
    }

    /// The same from a configuration alone, with weights of the type or the quantization that it states, bf16 if it
    /// states none. Norms and biases do not count.
    pub fn of_config(config: &ModelConfig, context: Option<usize>, kind: KvKind) -> Self {
        let context_length = config.context_length().unwrap_or(4096);
        let context = context.unwrap_or(context_length);
        let each = kind.bytes_per_token(config.num_key_value_heads, config.head_dim);
        let cache_per_token = each * config.num_hidden_layers as u64;
        let chunk = super::pace::chunk_on(Device::best());
        let windows = (0..config.num_hidden_layers).filter_map(|layer| config.window(layer));
        let windows: Vec<usize> = windows.filter(|window| *window < context_length).collect();
        let window = windows.iter().max().map_or(0, |window| window_pages(*window, chunk) * PAGE);
        let windowed_per_token = each * windows.len() as u64;
        let widest = config.intermediate_size.max(config.num_attention_heads * config.head_dim);
        let rows = chunk.min(context);
        let scratch = 4 * (rows * (4 * config.hidden_size + 4 * widest) + config.vocab_size) as u64;
        let fit = Self {
            weights: matrices(config),
            cache: 0,
            cache_per_token,
            scratch,
            context,
            context_length,
            window,
            windowed_per_token,
        };
        Self { cache: fit.cache_of(context), ..fit }
    }

    /// Bytes of the keys and values of `tokens` tokens.
    fn cache_of(&self, tokens: usize) -> u64 {
        let whole = (self.cache_per_token - self.windowed_per_token).saturating_mul(tokens as u64);
        whole.saturating_add(self.windowed_per_token.saturating_mul(tokens.min(self.window) as u64))
    }

    /// Bytes in all.
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.cache).saturating_add(self.scratch)
    }

    /// The longest context that fits into `bytes`, at most the model's own.
    pub fn context_in(&self, bytes: u64) -> usize {
        let rest = bytes.saturating_sub(self.weights + self.scratch);
        let (mut fits, mut too_many) = (0, self.context_length + 1);
        while too_many - fits > 1 {
            let middle = fits + (too_many - fits) / 2;
            if self.cache_of(middle) <= rest { fits = middle } else { too_many = middle }
        }
        fits
    }
}

/// Bytes of embedding, projections and head.
fn matrices(config: &ModelConfig) -> u64 {
    let ModelConfig { hidden_size: hidden, intermediate_size: wide, vocab_size: vocab, .. } = *config;
    let width = |heads: usize| heads * config.head_dim;
    let (q, kv) = (width(config.num_attention_heads), width(config.num_key_value_heads));
    let element = config.dtype.unwrap_or(Dtype::BF16).size();
    let quantization = config.quantization.as_ref().and_then(|all| all.of(""));
    let bytes = |rows: usize, columns: usize| {
        let row = match quantization {
            // Scale and bias of each group.
            Some(q) => (columns * q.bits).div_ceil(8) + columns.div_ceil(q.group_size) * 2 * element,
            None => columns * element,
        };
        rows as u64 * row as u64
    };
    let layer = bytes(q + 2 * kv + 2 * wide, hidden) + bytes(hidden, q) + bytes(hidden, wide);
    let ends = if config.tie_word_embeddings { 1 } else { 2 };
    config.num_hidden_layers as u64 * layer + ends * bytes(vocab, hidden)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Layers that see 1024 tokens keep these, a chunk and what is left of pages.
    #[test]
    fn windows_bound_what_layers_keep() {
        let text = r#"{"model_type": "mistral", "hidden_size": 64, "intermediate_size": 8, "vocab_size": 8,
            "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 64, "num_hidden_layers": 4,
            "rms_norm_eps": 1e-5, "max_position_embeddings": 131072, "sliding_window": 1024,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "sliding_attention"]}"#;
        let config = ModelConfig::parse("config.json", text.as_bytes()).unwrap();
        let fit = |context| Fit::of_config(&config, context, KvKind::F16);
        let (whole, some) = (fit(None), fit(Some(1000)));
        assert_eq!((whole.cache_per_token, some.cache), (4 * 256, 4 * 256 * 1000));
        assert!(whole.cache < 2 * 256 * 131_072, "{}", whole.cache);
        let bytes = whole.total();
        assert_eq!((whole.context_in(bytes), whole.context_in(bytes - 1)), (131_072, 131_071));
        assert_eq!(whole.context_in(whole.weights + whole.scratch + some.cache), 1000);
    }

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
