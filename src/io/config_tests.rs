//! Tests of configuration parsing.

use super::*;
use crate::io::quantized::{Quantization, QuantizationMode};
use crate::io::rope_config::RopeScaling;
use serde_json::json;

fn base() -> Value {
    json!({
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "vocab_size": 100
    })
}

/// The base configuration with some fields replaced; `null` removes.
fn with(changes: Value) -> Result<ModelConfig> {
    let mut config = base();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    ModelConfig::parse("config.json", config.to_string().as_bytes())
}

#[test]
fn defaults_are_those_of_transformers() {
    let c = with(json!({})).unwrap();
    assert_eq!((c.num_key_value_heads, c.head_dim, c.rms_norm_eps), (4, 16, 1e-6));
    assert_eq!(
        (c.rope.theta, &c.rope.scaling, c.hidden_act.as_str()),
        (10_000.0, &RopeScaling::Default, "silu")
    );
    assert!(!c.attention_bias && !c.mlp_bias && !c.tie_word_embeddings && !c.tie_is_stated);
    assert_eq!((c.eos_token_ids, c.bos_token_id, c.sliding_window), (vec![], None, None));
}

#[test]
fn each_wrong_field_is_named() {
    let cases = [
        (json!({"model_type": null}), "`model_type`: missing"),
        (json!({"model_type": 3}), "`model_type`"),
        (json!({"hidden_size": null}), "`hidden_size`: missing"),
        (json!({"hidden_size": "64"}), "`hidden_size`: expected a whole number"),
        (json!({"hidden_size": -1}), "found -1"),
        (json!({"hidden_size": 64.5}), "found 64.5"),
        (json!({"num_attention_heads": 0}), "`num_attention_heads`"),
        (json!({"num_key_value_heads": 3}), "3 does not divide num_attention_heads 4"),
        (json!({"num_attention_heads": 5}), "5 does not divide hidden_size 64"),
        (json!({"num_hidden_layers": 1_000_000}), "`num_hidden_layers`"),
        (json!({"vocab_size": 1u64 << 60}), "`vocab_size`"),
        (json!({"rms_norm_eps": "x"}), "`rms_norm_eps`"),
        (json!({"rope_theta": 0}), "`rope_theta`: expected a positive number, found 0"),
        (json!({"tie_word_embeddings": "yes"}), "`tie_word_embeddings`"),
        (json!({"eos_token_id": [1, "a"]}), "`eos_token_id`"),
        (json!({"eos_token_id": -1}), "`eos_token_id`"),
        (json!({"layer_types": ["full_attention"]}), "`layer_types`: 1 entries for 2 layers"),
        (json!({"layer_types": ["full_attention", "mamba"]}), "layer of type `mamba`"),
        (json!({"rope_scaling": 3}), "`rope_scaling`: expected an object"),
        (json!({"rope_scaling": {"rope_type": "spiral"}}), "`rope_scaling.rope_type`: rope of type `spiral`"),
        (json!({"rope_scaling": {"type": "linear"}}), "`rope_scaling.factor`: missing"),
        (
            json!({"rope_scaling": {"type": "yarn", "factor": 4}}),
            "`rope_scaling.original_max_position_embeddings`: missing",
        ),
        (json!({"quantization": {"bits": 7, "group_size": 64}}), "`quantization.bits`: 7"),
        (json!({"quantization": {"bits": 4, "group_size": 48}}), "`quantization.group_size`: 48"),
        (json!({"quantization": {"bits": 4}}), "`quantization.group_size`: missing"),
        (json!({"quantization": {"bits": 4, "group_size": 64, "mode": "nf4"}}), "quantization mode `nf4`"),
        (
            json!({"quantization": {"bits": 4, "group_size": 64, "a.b": {"bits": 1}}}),
            "`quantization.a.b.bits`: 1",
        ),
        (json!({"quantization_config": {"quant_method": "gptq", "bits": 4}}), "quantized by `gptq`"),
        (json!({"quantization_config": {"quant_method": "awq"}}), "quantized by `awq`"),
    ];
    for (change, expected) in cases {
        let e = with(change).unwrap_err().to_string();
        assert!(e.starts_with("config.json: ") && e.contains(expected), "{e}: expected {expected}");
    }
    for text in ["", "{", "[]", "null", "\u{0}", "{\"model_type\": }"] {
        assert!(
            ModelConfig::parse("config.json", text.as_bytes())
                .unwrap_err()
                .to_string()
                .contains("config.json")
        );
    }
}

#[test]
fn rope_is_read_from_all_three_places() {
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64});
    let old = with(json!({"rope_theta": 5e5, "rope_scaling": llama3})).unwrap().rope;
    let mut both = llama3.clone();
    both["rope_theta"] = json!(5e5);
    assert_eq!(with(json!({"rope_parameters": both})).unwrap().rope, old);
    assert!(matches!(
        old.scaling,
        RopeScaling::Llama3 { factor: 8.0, original_max_position_embeddings: 64, .. }
    ));

    let c = with(json!({"rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }}))
    .unwrap();
    assert_eq!((c.rope.theta, c.rope.scaling), (1e6, RopeScaling::Linear { factor: 8.0 }));
    assert_eq!(c.rope_sliding.unwrap().theta, 1e4);

    let yarn = with(
        json!({"max_position_embeddings": 512, "rope_scaling": {"type": "yarn", "factor": 4.0, "truncate": false}}),
    );
    assert!(matches!(
        yarn.unwrap().rope.scaling,
        RopeScaling::Yarn {
            original_max_position_embeddings: 512,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: false,
            ..
        }
    ));
    let c = with(json!({"rope_scaling": {"type": "default"}, "rope_local_base_freq": 1e4})).unwrap();
    assert_eq!((c.rope.scaling, c.rope_sliding.unwrap().theta), (RopeScaling::Default, 1e4));
}

#[test]
fn windows_follow_each_family() {
    let window = |change: Value| {
        let c = with(change).unwrap();
        [c.window(0), c.window(1)]
    };
    assert_eq!(window(json!({"sliding_window": 8})), [None, None]);
    assert_eq!(window(json!({"model_type": "mistral", "sliding_window": 8})), [Some(8); 2]);
    assert_eq!(window(json!({"model_type": "qwen2", "sliding_window": 8})), [None, None]);
    let qwen = |on: bool| json!({"model_type": "qwen2", "sliding_window": 8, "use_sliding_window": on, "max_window_layers": 1});
    assert_eq!(window(qwen(true)), [None, Some(8)]);
    assert_eq!(window(qwen(false)), [None, None]);
    let mut listed = qwen(true);
    listed["layer_types"] = json!(["sliding_attention", "full_attention"]);
    assert_eq!(window(listed.clone()), [Some(8), None]);
    listed["use_sliding_window"] = json!(null);
    assert_eq!(window(listed), [None, None]);
}

#[test]
fn context_is_the_longer_claim() {
    let context = |scaling: Value, claimed: Value| {
        let c = with(json!({"rope_scaling": scaling, "max_position_embeddings": claimed})).unwrap();
        c.context_length()
    };
    // Llama 3.2.
    let llama = json!({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192});
    assert_eq!(context(llama.clone(), json!(131_072)), Some(131_072));
    assert_eq!(context(llama, json!(null)), Some(262_144));
    let linear = json!({"rope_type": "linear", "factor": 2.0});
    assert_eq!(context(linear.clone(), json!(4096)), Some(4096));
    assert_eq!(context(linear, json!(null)), None);
    let dynamic = json!({"rope_type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 2048});
    assert_eq!(context(dynamic, json!(4096)), Some(2048));
}

#[test]
fn quantization_has_defaults_and_exceptions() {
    let affine = |bits, group_size| Some(Quantization { bits, group_size, mode: QuantizationMode::Affine });
    let c = with(json!({
        "quantization": {"bits": 4, "group_size": 64, "a": {"bits": 6, "group_size": 32}, "b": {"bits": 8}, "c": false, "d": true},
        "quantization_config": {"quant_method": "ignored beside quantization"},
    }))
    .unwrap();
    let q = c.quantization.unwrap();
    assert_eq!(
        [q.of("a"), q.of("b"), q.of("c"), q.of("d"), q.of("e")],
        [affine(6, 32), affine(8, 64), None, affine(4, 64), affine(4, 64)]
    );
    let mx = with(json!({"quantization_config": {"bits": 4, "group_size": 32, "mode": "mxfp4"}})).unwrap();
    assert_eq!(mx.quantization.unwrap().of("a").unwrap().mode, QuantizationMode::Mxfp4);
}

#[test]
fn token_ids_are_one_or_many() {
    let c = with(json!({"eos_token_id": [3, 4], "bos_token_id": 1, "torch_dtype": "bfloat16"})).unwrap();
    assert_eq!((c.eos_token_ids, c.bos_token_id, c.dtype), (vec![3, 4], Some(1), Some(Dtype::BF16)));
    assert_eq!(with(json!({"eos_token_id": 7, "dtype": "float16"})).unwrap().eos_token_ids, [7]);
}
