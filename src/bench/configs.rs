//! Shapes of published models, so that any machine can be measured without a checkpoint.
//!
//! Each is the part of that model's `config.json` that the engine reads, and is parsed as such a file is.

use crate::error::{Error, Result};
use crate::io::ModelConfig;
use serde_json::{Value, json};
use std::path::Path;

/// Short name and configuration, by family and size.
const CONFIGS: &[(&str, &str)] = &[
    (
        "llama-1b", // Llama-3.2-1B
        r#"{"model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256,
        "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "max_position_embeddings": 131072,
        "rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
        "tie_word_embeddings": true, "torch_dtype": "bfloat16", "eos_token_id": 128001}"#,
    ),
    (
        "llama-3b", // Llama-3.2-3B
        r#"{"model_type": "llama", "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28,
        "num_attention_heads": 24, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256,
        "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "max_position_embeddings": 131072,
        "rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
        "tie_word_embeddings": true, "torch_dtype": "bfloat16", "eos_token_id": 128001}"#,
    ),
    (
        "llama-8b", // Llama-3.1-8B
        r#"{"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
        "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "max_position_embeddings": 131072,
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
        "tie_word_embeddings": false, "torch_dtype": "bfloat16", "eos_token_id": 128001}"#,
    ),
    (
        "llama-70b", // Llama-3.1-70B
        r#"{"model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
        "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 128256,
        "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "max_position_embeddings": 131072,
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
        "tie_word_embeddings": false, "torch_dtype": "bfloat16", "eos_token_id": 128001}"#,
    ),
    (
        "llama2-7b", // Llama-2-7b
        r#"{"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096, "tie_word_embeddings": false, "torch_dtype": "float16",
        "eos_token_id": 2}"#,
    ),
    (
        "mistral-7b", // Mistral-7B-v0.3
        r#"{"model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32768,
        "rms_norm_eps": 1e-5, "rope_theta": 1000000.0, "max_position_embeddings": 32768,
        "sliding_window": null, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
        "eos_token_id": 2}"#,
    ),
    (
        "qwen2-0.5b", // Qwen2-0.5B
        r#"{"model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936, "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0, "max_position_embeddings": 131072, "use_sliding_window": false,
        "tie_word_embeddings": true, "torch_dtype": "bfloat16", "eos_token_id": 151643}"#,
    ),
    (
        "qwen2.5-0.5b", // Qwen2.5-0.5B
        r#"{"model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936, "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0, "max_position_embeddings": 32768, "use_sliding_window": false,
        "tie_word_embeddings": true, "torch_dtype": "bfloat16", "eos_token_id": 151643}"#,
    ),
    (
        "qwen2.5-1.5b", // Qwen2.5-1.5B
        r#"{"model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
        "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936, "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0, "max_position_embeddings": 131072, "use_sliding_window": false,
        "tie_word_embeddings": true, "torch_dtype": "bfloat16", "eos_token_id": 151643}"#,
    ),
    (
        "qwen2.5-7b", // Qwen2.5-7B
        r#"{"model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064, "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0, "max_position_embeddings": 131072, "use_sliding_window": false,
        "tie_word_embeddings": false, "torch_dtype": "bfloat16", "eos_token_id": 151643}"#,
    ),
    (
        "qwen3-0.6b", // Qwen3-0.6B
        r#"{"model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
        "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "max_position_embeddings": 40960,
        "tie_word_embeddings": true, "torch_dtype": "bfloat16", "eos_token_id": 151645}"#,
    ),
    (
        "qwen3-1.7b", // Qwen3-1.7B
        r#"{"model_type": "qwen3", "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
        "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "max_position_embeddings": 40960,
        "tie_word_embeddings": true, "torch_dtype": "bfloat16", "eos_token_id": 151645}"#,
    ),
    (
        "qwen3-4b", // Qwen3-4B
        r#"{"model_type": "qwen3", "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
        "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "max_position_embeddings": 40960,
        "tie_word_embeddings": true, "torch_dtype": "bfloat16", "eos_token_id": 151645}"#,
    ),
    (
        "qwen3-8b", // Qwen3-8B
        r#"{"model_type": "qwen3", "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
        "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "max_position_embeddings": 40960,
        "tie_word_embeddings": false, "torch_dtype": "bfloat16", "eos_token_id": 151645}"#,
    ),
    (
        "qwen3-14b", // Qwen3-14B
        r#"{"model_type": "qwen3", "hidden_size": 5120, "intermediate_size": 17408, "num_hidden_layers": 40,
        "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
        "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "max_position_embeddings": 40960,
        "tie_word_embeddings": false, "torch_dtype": "bfloat16", "eos_token_id": 151645}"#,
    ),
    (
        "qwen3-32b", // Qwen3-32B
        r#"{"model_type": "qwen3", "hidden_size": 5120, "intermediate_size": 25600, "num_hidden_layers": 64,
        "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
        "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "max_position_embeddings": 40960,
        "tie_word_embeddings": false, "torch_dtype": "bfloat16", "eos_token_id": 151645}"#,
    ),
];

/// Names that [`synthetic_config`] knows: the shapes of published models.
pub fn config_names() -> impl Iterator<Item = &'static str> {
    CONFIGS.iter().map(|(name, _)| *name)
}

/// The configuration of a published model by its short name, or that of any `config.json` by its path, with
/// other weights if `quant` says so: `f32`, `f16`, `bf16`, or `4bit` (2, 3, 4, 5, 6, 8), in groups of 64
/// or, say, `4bit-g32`. For [`Model::synthetic`](crate::Model::synthetic).
///
/// # Errors
/// `is_input`: neither a known name nor a file, or no such quantization; `is_format` as
/// [`ModelConfig::parse`].
pub fn synthetic_config(name: &str, quant: Option<&str>) -> Result<ModelConfig> {
    let known = CONFIGS.iter().find(|(known, _)| *known == name);
    let text = match known {
        Some((_, text)) => text.as_bytes().to_vec(),
        None if Path::new(name).is_file() => {
            std::fs::read(name).map_err(|e| Error::io(format!("{name}: {e}")))?
        }
        None => {
            let names: Vec<_> = config_names().collect();
            return Err(Error::input(format!(
                "configuration `{name}`: no such file; known names are {}",
                names.join(", ")
            )));
        }
    };
    let Some(quant) = quant else { return ModelConfig::parse(name, &text) };
    // As it is, for the errors of a file that is no configuration.
    let mut config = ModelConfig::parse(name, &text)?.raw().clone();
    if let Value::Object(fields) = &mut config {
        let dtype = match quant {
            "f32" => Some("float32"),
            "f16" => Some("float16"),
            "bf16" => Some("bfloat16"),
            _ => None,
        };
        for field in ["quantization", "quantization_config"] {
            fields.remove(field);
        }
        if let Some(dtype) = dtype {
            fields.remove("dtype");
            fields.insert("torch_dtype".to_string(), json!(dtype));
        } else {
            let (bits, group) = packed(quant)?;
            fields.insert("quantization".to_string(), json!({ "bits": bits, "group_size": group }));
        }
    }
    ModelConfig::parse(name, config.to_string().as_bytes())
}

/// `4bit` or `4bit-g32`.
fn packed(quant: &str) -> Result<(usize, usize)> {
    let (bits, group) = quant.split_once("-g").unwrap_or((quant, "64"));
    let bits = ["2bit", "3bit", "4bit", "5bit", "6bit", "8bit"].into_iter().find(|known| *known == bits);
    let group = ["32", "64", "128"].into_iter().find(|known| *known == group);
    match (bits.and_then(|b| b[..1].parse().ok()), group.and_then(|g| g.parse().ok())) {
        (Some(bits), Some(group)) => Ok((bits, group)),
        _ => Err(Error::input(format!(
            "quantization `{quant}`; known are f32, f16, bf16, 2bit, 3bit, 4bit, 5bit, 6bit, 8bit, the last six \
             also with -g32, -g64 or -g128 at their end"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Dtype;

    /// Parameters of the published models, in millions, as their cards say.
    #[test]
    fn shapes_have_the_published_number_of_parameters() {
        let published = [1236, 3213, 8030, 70554, 6738, 7248, 494, 494, 1544, 7616];
        let published = published.into_iter().chain([596, 1721, 4022, 8191, 14768, 32762]);
        for (name, millions) in config_names().zip(published) {
            let c = synthetic_config(name, None).unwrap();
            let (h, q) = (c.hidden_size, c.num_attention_heads * c.head_dim);
            let kv = c.num_key_value_heads * c.head_dim;
            let biases = if c.model_type == "qwen2" { q + 2 * kv } else { 0 };
            let layer = h * (2 * q + 2 * kv + 3 * c.intermediate_size + 2) + biases;
            let tables = if c.tie_word_embeddings { 1 } else { 2 };
            let all = c.num_hidden_layers * layer + tables * c.vocab_size * h;
            assert_eq!((all + 500_000) / 1_000_000, millions, "{name}");
            assert!((0..c.num_hidden_layers).all(|layer| c.window(layer).is_none()), "{name}");
        }
    }

    #[test]
    fn weights_are_of_the_kind_that_was_asked_for() {
        let of = |quant| synthetic_config("llama-1b", Some(quant));
        assert_eq!(of("f16").unwrap().dtype, Some(Dtype::F16));
        assert!(of("f16").unwrap().quantization.is_none());
        let q = |quant| of(quant).unwrap().quantization.unwrap().of("model.embed_tokens").unwrap();
        assert_eq!((q("4bit").bits, q("4bit").group_size), (4, 64));
        assert_eq!((q("6bit-g128").bits, q("6bit-g128").group_size), (6, 128));
        for wrong in ["7bit", "4bit-g16", "4bit-g", "q4_0", ""] {
            assert!(of(wrong).unwrap_err().is_input(), "{wrong}");
        }
    }
}
