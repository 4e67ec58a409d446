//! `config.json`: the architecture's numbers, checked.
//!
//! Everything that the engine multiplies, divides or allocates by is checked here once: no zero heads,
//! no head count that does not divide, no size that could not be real. What only one architecture needs
//! stays in [`ModelConfig::raw`] for that architecture's file to read.

use super::json::{self, Fields};
use super::quantized::QuantizationConfig;
use super::rope_config::{self, Rope, RopeScaling};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use serde_json::Value;

/// What a layer's attention may look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerType {
    /// Every earlier position.
    FullAttention,
    /// The last `sliding_window` positions.
    SlidingAttention,
}

/// The checked content of `config.json`. Names are those of the file.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ModelConfig {
    /// The architecture: `llama`, `qwen3`, ...
    pub model_type: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides `num_attention_heads`. By default the same.
    pub num_key_value_heads: usize,
    /// Width of one head; by default `hidden_size / num_attention_heads`.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Epsilon inside RMS norm; 1e-6 if the file says nothing.
    pub rms_norm_eps: f64,
    /// Rotary frequencies (of full-attention layers, where layers differ).
    pub rope: Rope,
    /// Rotary frequencies of sliding-window layers where they differ from `rope`.
    pub rope_sliding: Option<Rope>,
    /// Context length that the file claims.
    pub max_position_embeddings: Option<usize>,
    /// Positions that a sliding-window layer sees, itself included. See [`ModelConfig::window`].
    pub sliding_window: Option<usize>,
    /// Qwen's switch for `sliding_window`.
    pub use_sliding_window: Option<bool>,
    /// Qwen: layers below this one have full attention even when the switch is on.
    pub max_window_layers: Option<usize>,
    /// One entry per layer, where the file lists them.
    pub layer_types: Option<Vec<LayerType>>,
    /// Whether the output projection is the embedding. Where the file says nothing, [`Checkpoint`]
    /// decides by whether there is an `lm_head.weight`.
    ///
    /// [`Checkpoint`]: crate::Checkpoint
    pub tie_word_embeddings: bool,
    /// Whether attention projections have biases (qwen2 has some without saying so).
    pub attention_bias: bool,
    /// Whether feed-forward projections have biases.
    pub mlp_bias: bool,
    /// Activation of the feed-forward layer: `silu`, `gelu_pytorch_tanh`, ...
    pub hidden_act: String,
    /// Tokens that end an answer; may be empty.
    pub eos_token_ids: Vec<u32>,
    /// Token that begins a text.
    pub bos_token_id: Option<u32>,
    /// Type that the weights were trained in (`dtype` or `torch_dtype`), if it is one of ours.
    pub dtype: Option<Dtype>,
    pub(crate) quantization: Option<QuantizationConfig>,
    pub(crate) tie_is_stated: bool,
    raw: Value,
}

impl ModelConfig {
    /// Reads the content of a `config.json`; `file` is its name in errors.
    ///
    /// # Errors
    /// Bad JSON, or a field that is missing, of the wrong type or out of range, by name; a quantization
    /// or rope kind that is not supported.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Self> {
        let raw = json::parse(file, bytes)?;
        let f = Fields::top(file, &raw)?;
        let model_type: String = f.optional("model_type")?.ok_or_else(|| f.missing("model_type"))?;
        let hidden_size = f.required_count("hidden_size", 1..=1 << 20)?;
        let num_hidden_layers = f.required_count("num_hidden_layers", 1..=1 << 12)?;
        let num_attention_heads = f.required_count("num_attention_heads", 1..=1 << 14)?;
        let num_key_value_heads = f.count("num_key_value_heads", 1..=1 << 14)?.unwrap_or(num_attention_heads);
        if num_attention_heads % num_key_value_heads != 0 {
            return Err(f.error(
                "num_key_value_heads",
                format_args!(
                    "{num_key_value_heads} does not divide num_attention_heads {num_attention_heads}"
                ),
            ));
        }
        let head_dim = match f.count("head_dim", 1..=1 << 14)? {
            Some(n) => n,
            None if hidden_size % num_attention_heads == 0 => hidden_size / num_attention_heads,
            None => {
                return Err(f.error(
                    "num_attention_heads",
                    format_args!("{num_attention_heads} does not divide hidden_size {hidden_size}, and there is no head_dim"),
                ));
            }
        };
        let layer_types = layer_types(&f, num_hidden_layers)?;
        let (rope, rope_sliding) = rope_config::parse(&f)?;
        let tie: Option<bool> = f.optional("tie_word_embeddings")?;
        let act: Option<String> = f.optional("hidden_activation")?;
        let act = act.or(f.optional("hidden_act")?);
        let dtype: Option<String> = f.optional("dtype")?;
        let dtype = dtype.or(f.optional("torch_dtype")?);
        let eps = f.number("rms_norm_eps", "a number from 0 to 1", |x| (0.0..=1.0).contains(&x))?;
        Ok(Self {
            model_type,
            hidden_size,
            intermediate_size: f.required_count("intermediate_size", 1..=1 << 24)?,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            vocab_size: f.required_count("vocab_size", 1..=1 << 24)?,
            rms_norm_eps: eps.unwrap_or(1e-6),
            rope,
            rope_sliding,
            max_position_embeddings: f.count("max_position_embeddings", 1..=1 << 30)?,
            sliding_window: f.count("sliding_window", 1..=1 << 30)?,
            use_sliding_window: f.optional("use_sliding_window")?,
            max_window_layers: f.count("max_window_layers", 0..=1 << 12)?,
            layer_types,
            tie_word_embeddings: tie.unwrap_or(false),
            tie_is_stated: tie.is_some(),
            attention_bias: f.or("attention_bias", false)?,
            mlp_bias: f.or("mlp_bias", false)?,
            hidden_act: act.unwrap_or_else(|| "silu".to_owned()),
            eos_token_ids: f.token_ids("eos_token_id")?,
            bos_token_id: f.token_ids("bos_token_id")?.first().copied(),
            dtype: dtype.and_then(|name| dtype_named(&name)),
            quantization: QuantizationConfig::parse(&f)?,
            raw,
        })
    }

    /// The file's JSON, for what only one architecture needs.
    pub fn raw(&self) -> &Value {
        &self.raw
    }

    /// Positions that attention of layer `layer` sees, itself included; `None` means all.
    ///
    /// As in `transformers`: Llama never slides; Qwen only where its switch is on, and there from
    /// `max_window_layers` on unless `layer_types` says otherwise; other architectures in each layer, or
    /// in those that `layer_types` names.
    pub fn window(&self, layer: usize) -> Option<usize> {
        let qwen = self.model_type.starts_with("qwen");
        if self.model_type == "llama" || (qwen && self.use_sliding_window != Some(true)) {
            return None;
        }
        let slides = match &self.layer_types {
            Some(types) => types.get(layer) == Some(&LayerType::SlidingAttention),
            None => !qwen || layer >= self.max_window_layers.unwrap_or(28),
        };
        // What transformers' configuration classes assume where a file is silent; `null` means none.
        let assumed = (qwen || self.model_type == "mistral") && self.raw().get("sliding_window").is_none();
        self.sliding_window.or(assumed.then_some(4096)).filter(|_| slides)
    }

    /// Tokens that the model's positions were made for; `None` where the file does not say.
    pub fn context_length(&self) -> Option<usize> {
        let claimed = self.max_position_embeddings;
        let stretched = match self.rope.scaling {
            RopeScaling::Dynamic { original_max_position_embeddings, .. } => {
                return Some(original_max_position_embeddings);
            }
            // Meta claims less than the factor would give.
            RopeScaling::Llama3 { .. } if claimed.is_some() => None,
            RopeScaling::Llama3 { factor, original_max_position_embeddings, .. }
            | RopeScaling::Yarn { factor, original_max_position_embeddings, .. } => {
                Some(((factor * original_max_position_embeddings as f64) as usize).min(1 << 30))
            }
            _ => None,
        };
        claimed.max(stretched)
    }
}

fn layer_types(f: &Fields<'_>, layers: usize) -> Result<Option<Vec<LayerType>>> {
    let Some(names) = f.optional::<Vec<String>>("layer_types")? else { return Ok(None) };
    if names.len() != layers {
        let message = format!("{} entries for {layers} layers", names.len());
        return Err(f.error("layer_types", message));
    }
    let parse = |name: &String| match name.as_str() {
        "full_attention" => Ok(LayerType::FullAttention),
        "sliding_attention" => Ok(LayerType::SlidingAttention),
        other => Err(f.unsupported("layer_types", format_args!("layer of type `{other}`"))),
    };
    names.iter().map(parse).collect::<Result<_, Error>>().map(Some)
}

fn dtype_named(name: &str) -> Option<Dtype> {
    match name.strip_prefix("torch.").unwrap_or(name) {
        "float32" | "float" => Some(Dtype::F32),
        "float16" | "half" => Some(Dtype::F16),
        "bfloat16" => Some(Dtype::BF16),
        _ => None,
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
