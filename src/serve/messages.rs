//! Messages of a conversation, from OpenAI's form to the one that chat templates know.

use super::error::ApiError;
use super::fields::{Fields, kind};
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, ApiError>;

/// Messages of a conversation at most.
const MOST_MESSAGES: usize = 4096;
/// Calls in one message.
const MOST_CALLS: usize = 128;

/// Messages as templates know them.
pub(super) fn messages_of(items: Vec<Value>) -> Result<Vec<Value>> {
    count(items.len(), "messages")?;
    items.into_iter().enumerate().map(|(i, item)| message(item, &format!("messages[{i}]"))).collect()
}

/// Refuses a conversation without messages or with too many.
pub(super) fn count(n: usize, param: &str) -> Result<()> {
    if (1..=MOST_MESSAGES).contains(&n) {
        return Ok(());
    }
    Err(ApiError::value(param, format!("`{param}` must have from 1 to {MOST_MESSAGES} messages")))
}

/// One message, which errors call `at`.
pub(super) fn message(item: Value, at: &str) -> Result<Value> {
    let mut fields = Fields::new(item, at)?;
    let role = fields.string("role")?;
    let role = fields.required("role", role)?;
    let role = match role.as_str() {
        "system" | "user" | "assistant" | "tool" => role.as_str(),
        "developer" => "system",
        "function" => "tool",
        _ => {
            let message = "a role must be system, developer, user, assistant, tool or function";
            return Err(ApiError::value(fields.name("role"), message));
        }
    };
    let calls = fields.array("tool_calls")?.unwrap_or_default();
    if !calls.is_empty() && role != "assistant" {
        let message = "only messages of the assistant have `tool_calls`";
        return Err(ApiError::value(fields.name("tool_calls"), message));
    }
    if calls.len() > MOST_CALLS {
        let message = format!("a message has at most {MOST_CALLS} calls");
        return Err(ApiError::value(fields.name("tool_calls"), message));
    }
    fields.neutral("type", &[json!("message"), json!("text")])?;
    let name = fields.name("content");
    let refusal = if role == "assistant" { fields.string("refusal")? } else { None };
    let mut content = match fields.raw("content") {
        // Templates expect a text, be it empty.
        None if !calls.is_empty() || refusal.is_some() => String::new(),
        content => text_of(fields.required("content", content)?, &name)?,
    };
    content.extend(refusal);
    let mut message = json!({ "role": role, "content": content });
    if !calls.is_empty() {
        let at = fields.name("tool_calls");
        let calls = calls.into_iter().enumerate().map(|(i, item)| call(item, &format!("{at}[{i}]")));
        message["tool_calls"] = calls.collect::<Result<_>>()?;
    }
    if let Some(id) = fields.string("tool_call_id")? {
        if role != "tool" {
            let message = "only messages of tools have a `tool_call_id`";
            return Err(ApiError::value(fields.name("tool_call_id"), message));
        }
        message["tool_call_id"] = id.into();
    } else if role == "tool" && !fields.has("name") {
        fields.required("tool_call_id", None::<()>)?;
    }
    for field in ["function_call", "refusal", "audio"] {
        fields.neutral(field, &[])?;
    }
    fields.neutral("annotations", &[json!([])])?;
    for extra in ["name", "reasoning_content", "reasoning"] {
        if let Some(text) = fields.string(extra)? {
            message[extra] = text.into();
        }
    }
    fields.finish()?;
    Ok(message)
}

/// A call of an earlier answer; its arguments become an object, as templates want them.
fn call(item: Value, at: &str) -> Result<Value> {
    let mut fields = Fields::new(item, at)?;
    fields.neutral("type", &[json!("function")])?;
    fields.harmless("index");
    let id = fields.string("id")?;
    let id = fields.required("id", id)?;
    let function = fields.raw("function");
    let function = fields.required("function", function)?;
    fields.finish()?;
    let mut function = Fields::new(function, &format!("{at}.function"))?;
    let name = function.string("name")?;
    let name = function.required("name", name)?;
    let param = function.name("arguments");
    let arguments = match function.raw("arguments") {
        Some(Value::Object(map)) => Value::Object(map),
        Some(Value::String(text)) => arguments(&text)
            .ok_or_else(|| ApiError::value(&param, format!("`{param}` must be a JSON object as a string")))?,
        Some(other) => {
            let message = format!("`{param}` must be a string, not {}", kind(&other));
            return Err(ApiError::value(&param, message));
        }
        None => function.required("arguments", None)?,
    };
    function.finish()?;
    Ok(json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments } }))
}

/// The arguments of a call, an object; `None` if the text is none.
pub(super) fn arguments(text: &str) -> Option<Value> {
    if text.trim().is_empty() {
        return Some(json!({}));
    }
    serde_json::from_str(text).ok().filter(Value::is_object)
}

/// The text of a content: a string, or parts that are texts.
pub(super) fn text_of(content: Value, at: &str) -> Result<String> {
    match content {
        Value::String(text) => Ok(text),
        Value::Array(parts) => {
            let mut all = String::new();
            for (i, part) in parts.into_iter().enumerate() {
                let at = format!("{at}[{i}]");
                let mut part = Fields::new(part, &at)?;
                let kind = part.string("type")?;
                let kind = part.required("type", kind)?;
                let field = match kind.as_str() {
                    "text" | "input_text" | "output_text" => "text",
                    "refusal" => "refusal",
                    _ => {
                        let message = "only parts of type `text` are supported by this model";
                        return Err(ApiError::unsupported(part.name("type"), message));
                    }
                };
                let text = part.string(field)?;
                all += &part.required(field, text)?;
                for field in ["annotations", "logprobs", "cache_control"] {
                    part.harmless(field);
                }
                part.finish()?;
            }
            Ok(all)
        }
        other => Err(ApiError::value(
            at,
            format!("`{at}` must be a string or an array of parts, not {}", kind(&other)),
        )),
    }
}
