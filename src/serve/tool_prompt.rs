//! Tools for models whose chat template does not know them: what the template would have written is put into the
//! messages themselves, in the format of [`ToolFormat::Hermes`](super::tools::ToolFormat::Hermes).

use serde_json::{Value, json};
use std::fmt::Write;

/// The same conversation in messages of `system`, `user` and `assistant` that have nothing but a text.
pub(super) fn plain(messages: &[Value], tools: Option<&[Value]>) -> Vec<Value> {
    let mut out: Vec<Value> = Vec::with_capacity(messages.len());
    let mut answered = false;
    for message in messages {
        let text = message["content"].as_str().unwrap_or_default();
        if message["role"] == "tool" {
            let text = format!("<tool_response>\n{text}\n</tool_response>");
            match out.last_mut().filter(|_| answered) {
                // Many templates want questions and answers in turn.
                Some(last) => append(last, &text),
                None => out.push(json!({ "role": "user", "content": text })),
            }
            answered = true;
            continue;
        }
        answered = false;
        let mut message = message.clone();
        let calls = message.as_object_mut().and_then(|fields| fields.shift_remove("tool_calls"));
        for call in calls.iter().flat_map(|calls| calls.as_array().into_iter().flatten()) {
            let (name, arguments) = (&call["function"]["name"], &call["function"]["arguments"]);
            let text = format!("<tool_call>\n{{\"name\": {name}, \"arguments\": {arguments}}}\n</tool_call>");
            append(&mut message, &text);
        }
        out.push(message);
    }
    if let (Some(tools), Some(first)) = (tools, out.first_mut()) {
        let content = first["content"].as_str().unwrap_or_default();
        first["content"] = format!("{}\n\n{content}", introduction(tools)).trim_end().into();
    }
    out
}

fn append(message: &mut Value, text: &str) {
    let before = message["content"].as_str().unwrap_or_default();
    message["content"] = if before.is_empty() { text.into() } else { format!("{before}\n{text}").into() };
}

fn introduction(tools: &[Value]) -> String {
    let mut text = "You can call these functions, described in JSON:\n<tools>\n".to_owned();
    for tool in tools {
        let _ = writeln!(text, "{}", tool["function"]);
    }
    text += "</tools>\nTo call one, answer with its name and arguments as JSON between these tags:\n<tool_call>\n\
             {\"name\": \"...\", \"arguments\": {...}}\n</tool_call>";
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_with_tools_becomes_one_of_texts() {
        let call = |city: &str| {
            json!({ "id": "call_1", "type": "function",
                "function": { "name": "weather", "arguments": { "city": city } } })
        };
        let messages = [
            json!({ "role": "user", "content": "Is it warm?" }),
            json!({ "role": "assistant", "content": "", "tool_calls": [call("Rom"), call("Oslo")] }),
            json!({ "role": "tool", "content": "30", "tool_call_id": "call_1" }),
            json!({ "role": "tool", "content": "10", "tool_call_id": "call_2" }),
            json!({ "role": "assistant", "content": "In Rome." }),
        ];
        let tools = [json!({ "type": "function", "function": { "name": "weather" } })];
        let got = plain(&messages, Some(&tools));
        let roles: Vec<_> = got.iter().map(|m| m["role"].as_str().unwrap()).collect();
        assert_eq!(roles, ["user", "assistant", "user", "assistant"]);
        let first = got[0]["content"].as_str().unwrap();
        assert!(first.contains("{\"name\":\"weather\"}") && first.ends_with("\n\nIs it warm?"), "{first}");
        let call = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\":\"Rom\"}}\n</tool_call>\n<tool_call>";
        assert!(got[1]["content"].as_str().unwrap().starts_with(call) && got[1].get("tool_calls").is_none());
        let responses = "<tool_response>\n30\n</tool_response>\n<tool_response>\n10\n</tool_response>";
        assert_eq!(got[2]["content"], responses);
        assert_eq!(plain(&messages[..1], None), messages[..1]);
    }
}
