//! How long a submission may be. Systems kill those that run for seconds, and draw nothing meanwhile: so a step
//! of many tokens is cut into several.

use crate::array::Device;
use crate::gpu::{Caps, Gpu};
use crate::io::ModelConfig;

/// Seconds that a submission should take, and a single kernel at most.
const SECONDS: f64 = 0.1;
/// Tokens that go through a model at once even where that takes longer.
const LEAST: usize = 32;

/// Tokens that go through a model at once, at most, where matrix units make that short work.
pub(super) const LARGE_CHUNK: usize = 2048;
/// The same elsewhere, or where other answers wait.
pub(super) const CHUNK: usize = 512;

/// Tokens that go through a model on this device at once, at most.
pub(crate) fn chunk_on(device: Device) -> usize {
    let large = device == Device::GPU && Gpu::shared().is_ok_and(|gpu| gpu.caps().coop16);
    if large { LARGE_CHUNK } else { CHUNK }
}

/// Operations per second of the slower GPUs of a kind.
fn rate(caps: &Caps) -> f64 {
    match (caps.has_matrix_units(), caps.unified) {
        (true, false) => 40e12,
        (true, true) => 2e12,
        (false, false) => 3e12,
        (false, true) => 0.3e12,
    }
}

/// Operations of the long kernels of a layer for each token, in order, when a sequence has room for `context` tokens.
fn operations(config: &ModelConfig, context: usize) -> [f64; 5] {
    let ModelConfig { hidden_size, intermediate_size, head_dim, .. } = *config;
    let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
    let weights = [
        head_dim * (heads + 2 * kv_heads),                   // q, k, v
        2 * heads * head_dim * context / hidden_size.max(1), // attention
        heads * head_dim,
        2 * intermediate_size, // gate, up
        intermediate_size,
    ];
    weights.map(|n| 2.0 * n as f64 * hidden_size as f64)
}

/// Into how many submissions a step of `tokens` goes when a sequence has room for `context` tokens.
///
/// An estimate from the operations of the step. A fast GPU gets more submissions than it needs: some 30 us each, while
/// it still works on what came before.
pub(super) fn submissions(config: &ModelConfig, caps: &Caps, tokens: usize, context: usize) -> usize {
    let layer: f64 = operations(config, context).iter().sum();
    let operations = config.num_hidden_layers as f64 * tokens as f64 * layer;
    (operations / rate(caps) / SECONDS).ceil().max(1.0) as usize
}

/// How many tokens may go through a model at once, up to `most`, when a sequence has room for `context`: a kernel
/// cannot be cut.
pub(super) fn chunk(config: &ModelConfig, caps: &Caps, most: usize, context: usize) -> usize {
    let longest = operations(config, context).into_iter().fold(0.0, f64::max);
    let fits = |tokens: usize| tokens as f64 * longest / rate(caps) <= SECONDS;
    std::iter::successors(Some(most), |tokens| Some(tokens / 2))
        .find(|&t| t <= LEAST || fits(t))
        .unwrap_or(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(hidden: usize, intermediate: usize, layers: usize, heads: usize) -> ModelConfig {
        let config = format!(
            r#"{{"model_type": "llama", "hidden_size": {hidden}, "intermediate_size": {intermediate},
            "num_hidden_layers": {layers}, "num_attention_heads": {heads}, "num_key_value_heads": 8,
            "vocab_size": 128256, "rms_norm_eps": 1e-5}}"#
        );
        ModelConfig::parse("config.json", config.as_bytes()).unwrap()
    }

    fn kinds() -> [Caps; 4] {
        let (plain, coop) = (Caps::BASELINE, Caps { coop16: true, ..Caps::BASELINE });
        let unified = |caps: &Caps| Caps { unified: true, ..caps.clone() };
        [unified(&plain), unified(&coop), plain, coop]
    }

    #[test]
    fn long_steps_are_cut() {
        let config = config(4096, 14336, 32, 32);
        let [shared, _, plain, fast] = kinds();
        assert_eq!(submissions(&config, &fast, 1, 32768), 1);
        assert_eq!(submissions(&config, &shared, 1, 4096), 1);
        assert_eq!(submissions(&config, &fast, 512, 4096), 3);
        assert_eq!(submissions(&config, &plain, 512, 4096), 28);
        assert!(submissions(&config, &shared, 512, 4096) > 200);
        assert_eq!(chunk(&config, &fast, 2048, 4096), 2048);
        assert_eq!(chunk(&config, &shared, 512, 4096), 64);
    }

    /// As submissions are made: cut after every so many kernels, wherever that is.
    #[test]
    fn no_submission_is_estimated_longer_than_a_quarter_of_a_second() {
        for (config, name) in [
            (config(2048, 8192, 16, 32), "1b"),
            (config(4096, 14336, 32, 32), "8b"),
            (config(5120, 25600, 64, 64), "32b"),
            (config(8192, 28672, 80, 64), "70b"),
        ] {
            for (kind, context) in
                kinds().iter().flat_map(|kind| [(kind, 2048), (kind, 32768), (kind, 131_072)])
            {
                for most in [512, 2048] {
                    let tokens = chunk(&config, kind, most, context);
                    let kernels = operations(&config, context).repeat(config.num_hidden_layers);
                    let count = kernels.len().div_ceil(submissions(&config, kind, tokens, context));
                    let longest =
                        kernels.windows(count).map(|part| part.iter().sum::<f64>()).fold(0.0, f64::max);
                    let seconds = longest * tokens as f64 / rate(kind);
                    assert!(
                        seconds <= 0.25 || tokens <= LEAST,
                        "{name}, {context}, {tokens} tokens: {seconds} s"
                    );
                }
            }
        }
    }
}
