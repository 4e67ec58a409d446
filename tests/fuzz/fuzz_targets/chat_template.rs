//! Any text as a chat template, with any messages and tools; any text as what a model answers to it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use unimlx::serve::reasoning::{ReasoningSplitter, has_reasoning};
use unimlx::serve::tools::{ToolFormat, ToolParser};
use unimlx::{Chat, ChatTemplate};

fuzz_target!(|input: (&str, &str, &str)| {
    let (template, conversation, answer) = input;
    if let Ok(template) = ChatTemplate::new(template) {
        let conversation: Value = serde_json::from_str(conversation).unwrap_or_default();
        let list = |key: &str| conversation[key].as_array().cloned().unwrap_or_default();
        let (messages, tools) = (list("messages"), list("tools"));
        for (tools, end) in [(None, true), (Some(&tools[..]), false)] {
            let chat = Chat {
                messages: &messages,
                tools,
                add_generation_prompt: end,
                continue_final_message: !end,
                ..Chat::default()
            };
            let _ = template.render(&chat);
        }
        let _ = (ToolFormat::of(&template), has_reasoning(&template));
    }
    let mut splitter = ReasoningSplitter::after(conversation);
    for format in [ToolFormat::Hermes, ToolFormat::Llama3] {
        let mut parser = ToolParser::new(format, ["f".to_owned()]);
        for c in answer.chars() {
            splitter.push(&c.to_string());
            parser.push(c.to_string().as_bytes());
        }
        parser.finish();
    }
    splitter.finish();
});
