//! Any bytes as the JSON files of a model folder and its chat template.

#![no_main]

use libfuzzer_sys::fuzz_target;
use unimlx::{Chat, ChatTemplate, Checkpoint, MlxModel, Tokenizer};

fuzz_target!(|parts: (Vec<u8>, Vec<u8>, Vec<u8>, &str)| {
    let (config, weights, index, template) = parts;
    let files = [
        ("config.json", config.clone().into()),
        ("generation_config.json", config.clone().into()),
        ("tokenizer_config.json", config.into()),
        ("model-1.safetensors", weights.into()),
        ("model.safetensors.index.json", index.clone().into()),
    ];
    if let Ok(checkpoint) = Checkpoint::from_memory(files) {
        let _ = MlxModel::from_checkpoint(&checkpoint);
        let _ = checkpoint.chat_template();
    }
    let _ = Tokenizer::from_bytes(&index);
    if let Ok(template) = ChatTemplate::new(template) {
        let _ = template.render(&Chat::default());
    }
});
