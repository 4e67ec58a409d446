//! Any bytes as `model.safetensors`: an error, or tensors that can all be looked at.
//!
//! `cargo +nightly fuzz run --fuzz-dir tests/fuzz safetensors_header`, with fixtures of `tests/golden` as the corpus.

#![no_main]

use libfuzzer_sys::fuzz_target;
use unimlx::Checkpoint;

const CONFIG: &[u8] = br#"{"model_type": "llama", "hidden_size": 8, "intermediate_size": 8,
    "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 8}"#;

fuzz_target!(|bytes: &[u8]| {
    let files = [("config.json", CONFIG.into()), ("model.safetensors", bytes.to_vec().into())];
    let Ok(checkpoint) = Checkpoint::from_memory(files) else { return };
    for name in checkpoint.names() {
        if let Ok(tensor) = checkpoint.tensor(name) {
            let size: usize = tensor.shape().iter().product();
            assert_eq!(size * tensor.dtype().size(), tensor.bytes().len());
        }
        let _ = checkpoint.quantization_of(name.trim_end_matches(".scales"));
    }
});
