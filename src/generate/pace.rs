//! How long a submission may be. Systems end those that run for seconds, and draw nothing meanwhile: a step of
//! many tokens is cut into several.

use crate::gpu::Caps;
use crate::io::ModelConfig;

/// Seconds that a submission should take at most.
const SECONDS: f64 = 0.1;

/// Into how many submissions a step of `tokens` goes when a sequence has room for `context` tokens.
///
/// A guess from the operations of the step and what the slower GPUs of a kind do in a second. A fast one is asked
/// more often than need be: some 30 us each time, while it still works on what came before.
pub(super) fn submissions(config: &ModelConfig, caps: &Caps, tokens: usize, context: usize) -> usize {
    let rate = match (caps.coop8 || caps.coop16, caps.unified) {
        (true, false) => 40e12,
        (true, true) => 2e12,
        (false, false) => 3e12,
        (false, true) => 0.3e12,
    };
    let ModelConfig { hidden_size, intermediate_size, head_dim, .. } = *config;
    let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
    let weights = hidden_size * (2 * head_dim * (heads + kv_heads) + 3 * intermediate_size);
    let each = 2 * weights + 4 * heads * head_dim * context;
    let operations = config.num_hidden_layers as f64 * tokens as f64 * each as f64;
    (operations / rate / SECONDS).ceil().max(1.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_steps_are_cut() {
        let config = r#"{
            "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "rms_norm_eps": 1e-5
        }"#;
        let config = ModelConfig::parse("config.json", config.as_bytes()).unwrap();
        let plain = Caps::BASELINE;
        let fast = Caps { coop16: true, ..Caps::BASELINE };
        let shared = Caps { unified: true, ..Caps::BASELINE };
        assert_eq!(submissions(&config, &fast, 1, 32768), 1);
        assert_eq!(submissions(&config, &shared, 1, 4096), 1);
        assert_eq!(submissions(&config, &fast, 512, 4096), 3);
        assert_eq!(submissions(&config, &plain, 512, 4096), 28);
        assert!(submissions(&config, &shared, 512, 4096) > 200);
    }
}
