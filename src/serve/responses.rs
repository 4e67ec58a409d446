//! `POST /v1/responses`: texts and results of functions in; text and calls out; nothing kept.

use super::answer::Answers;
use super::app::{App, caller, now};
use super::chat::{Conversation, converse, tools_of};
use super::error::ApiError;
use super::fields::Fields;
use super::form::text_format;
use super::messages::{count, message, text_of};
use super::output::{Event, Output};
use super::params::{Params, model};
use super::parts::Reading;
use super::sse::{self, Emitter};
use crate::io::Chat;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use std::sync::Arc;

type Result<T> = std::result::Result<T, ApiError>;

pub(super) async fn responses(State(app): State<Arc<App>>, request: Request<Body>) -> Result<Response> {
    let caller = caller(&request);
    let (mut params, conversation, mut object) = app.prepare(request, prepare).await?;
    let Conversation { tokens, reading } = conversation;
    let prompt = tokens.len();
    let answers = app.submit(&[tokens], &mut params, caller)?;
    let id = app.id("");
    object["id"] = format!("resp_{id}").into();
    let output = Output::new(&id);
    if params.stream {
        return Ok(sse::stream(&app, |out| streamed(out, answers, reading, object, output, prompt)));
    }
    Ok(Json(app.until_end(whole(answers, reading, object, output, prompt)).await?).into_response())
}

/// Parameters, the prompt, and the response as far as the request decides it.
fn prepare(app: &App, body: Value) -> Result<(Params, Conversation, Value)> {
    let card = app.card();
    let mut fields = Fields::new(body, "")?;
    let model = model(&mut fields, card, app.options.any_model)?;
    fields.neutral("max_tokens", &[])?;
    fields.neutral("n", &[])?;
    let mut params = Params::take(&mut fields, card)?;
    params.options.max_tokens = fields.count("max_output_tokens", 1, u64::from(u32::MAX))?;
    for field in ["store", "background"] {
        fields.neutral(field, &[json!(false)])?;
    }
    fields.neutral("truncation", &[json!("disabled")])?;
    fields.neutral("include", &[json!([])])?;
    fields.neutral("top_logprobs", &[json!(0)])?;
    for field in ["previous_response_id", "conversation", "reasoning", "prompt", "max_tool_calls"] {
        fields.neutral(field, &[])?;
    }
    let (form, format) = text_format(&mut fields)?;
    let (tools, choice) = (fields.array("tools")?.unwrap_or_default(), fields.raw("tool_choice"));
    let parallel = fields.bool("parallel_tool_calls")?;
    let list = tools.iter().map(nested).collect();
    let chosen = choice.as_ref().map(nested);
    let functions = tools_of(Some(list), chosen, parallel)?;
    let metadata = fields.object("metadata")?.unwrap_or_default();
    let instructions = fields.string("instructions")?;
    let input = fields.raw("input");
    let input = fields.required("input", input)?;
    fields.finish()?;
    let mut messages = match input {
        Value::String(text) => vec![json!({ "role": "user", "content": text })],
        Value::Array(items) => messages_of(items)?,
        _ => return Err(ApiError::value("input", "`input` must be a string or an array of items")),
    };
    if let Some(text) = &instructions {
        messages.insert(0, json!({ "role": "system", "content": text }));
    }
    let chat = Chat { messages: &messages, add_generation_prompt: true, ..Chat::default() };
    let conversation = converse(app, chat, &functions, form, &mut params, ["input", "text.format"])?;
    let object = json!({
        "id": null, "object": "response", "created_at": now(), "status": "in_progress", "completed_at": null,
        "error": null, "incomplete_details": null, "instructions": instructions,
        "max_output_tokens": params.options.max_tokens, "max_tool_calls": null, "model": model, "output": [],
        "parallel_tool_calls": parallel.unwrap_or(true), "previous_response_id": null,
        "prompt_cache_key": null, "safety_identifier": null, "store": false,
        "temperature": params.options.temperature, "top_p": params.options.top_p,
        "text": { "format": format.unwrap_or(json!({ "type": "text" })) },
        "tool_choice": choice.unwrap_or(json!("auto")), "tools": tools.iter().map(whole_tool).collect::<Value>(),
        "truncation": "disabled", "metadata": metadata, "usage": null,
        "presence_penalty": params.presence_penalty, "frequency_penalty": params.frequency_penalty,
        "reasoning": null, "background": false, "service_tier": "default", "top_logprobs": 0,
    });
    Ok((params, conversation, object))
}

/// A tool or a choice of one as chats have it: what is of the function is in an object of its own.
fn nested(tool: &Value) -> Value {
    match tool {
        Value::Object(fields) if !fields.contains_key("function") => {
            let kind = fields.get("type").cloned().unwrap_or_default();
            let rest = fields.iter().filter(|(key, _)| *key != "type");
            let rest: Map<String, Value> = rest.map(|(key, value)| (key.clone(), value.clone())).collect();
            json!({ "type": kind, "function": rest })
        }
        other => other.clone(),
    }
}

/// A tool with every field that a response has.
fn whole_tool(tool: &Value) -> Value {
    let mut whole = json!({ "type": "function", "name": null, "description": null, "parameters": null,
        "strict": false });
    for (key, value) in tool.as_object().into_iter().flatten() {
        whole[key] = value.clone();
    }
    whole
}

/// Items of the input as messages.
fn messages_of(items: Vec<Value>) -> Result<Vec<Value>> {
    count(items.len(), "input")?;
    let mut messages: Vec<Value> = Vec::with_capacity(items.len());
    for (i, item) in items.into_iter().enumerate() {
        let next = input(item, &format!("input[{i}]"))?;
        // Thoughts, text and calls of one answer are one message.
        match messages.last_mut() {
            Some(last) if last["role"] == "assistant" && next["role"] == "assistant" => join(last, next),
            _ => messages.push(next),
        }
    }
    Ok(messages)
}

/// Adds an assistant's message to the one before.
fn join(last: &mut Value, next: Value) {
    let Value::Object(next) = next else { return };
    for (key, value) in next {
        match (key.as_str(), &mut last[&key], value) {
            ("role", ..) => {}
            (_, Value::Array(all), Value::Array(more)) => all.extend(more),
            (_, Value::String(all), Value::String(more)) => all.push_str(&more),
            (_, place, value) => *place = value,
        }
    }
}

/// An item of the input as a message.
fn input(item: Value, at: &str) -> Result<Value> {
    let mut fields = Fields::new(item, at)?;
    for field in ["id", "status"] {
        fields.harmless(field);
    }
    let kind = fields.string("type")?;
    let text = |fields: &mut Fields, field: &str| -> Result<String> {
        let value = fields.string(field)?;
        fields.required(field, value)
    };
    match kind.as_deref() {
        None | Some("message") => {
            let role = text(&mut fields, "role")?;
            let name = fields.name("content");
            let content = fields.raw("content");
            let content = text_of(fields.required("content", content)?, &name)?;
            fields.neutral("phase", &[json!("commentary"), json!("final_answer")])?;
            fields.finish()?;
            message(json!({ "role": role, "content": content }), at)
        }
        Some("function_call") => {
            let (id, name) = (text(&mut fields, "call_id")?, text(&mut fields, "name")?);
            let arguments = text(&mut fields, "arguments")?;
            fields.finish()?;
            let call = json!({ "id": id, "function": { "name": name, "arguments": arguments } });
            message(json!({ "role": "assistant", "tool_calls": [call] }), at)
        }
        Some("function_call_output") => {
            let id = text(&mut fields, "call_id")?;
            let name = fields.name("output");
            let output = fields.raw("output");
            let output = text_of(fields.required("output", output)?, &name)?;
            fields.finish()?;
            Ok(json!({ "role": "tool", "content": output, "tool_call_id": id }))
        }
        Some("reasoning") => {
            let mut thoughts = String::new();
            for part in fields.array("content")?.unwrap_or_default() {
                thoughts += part["text"].as_str().unwrap_or_default();
            }
            fields.harmless("summary");
            fields.neutral("encrypted_content", &[])?;
            fields.finish()?;
            Ok(json!({ "role": "assistant", "content": "", "reasoning_content": thoughts }))
        }
        Some(_) => {
            let message = "an item must be a message, function_call, function_call_output or reasoning";
            Err(ApiError::unsupported(fields.name("type"), message))
        }
    }
}

/// Fills in how it ended.
fn close(object: &mut Value, answers: &Answers, reading: &Reading, output: &Output, prompt: usize) {
    let whole = answers.all.first().is_none_or(|a| a.reason() == "stop");
    object["status"] = if whole { "completed" } else { "incomplete" }.into();
    object["output"] = output.items().into();
    if whole {
        object["completed_at"] = now().into();
    } else {
        object["incomplete_details"] = json!({ "reason": "max_output_tokens" });
    }
    let (tokens, cached) = answers.all.first().map_or((0, 0), |a| (a.tokens, a.cached));
    object["usage"] = json!({
        "input_tokens": prompt, "input_tokens_details": { "cached_tokens": cached },
        "output_tokens": tokens, "output_tokens_details": { "reasoning_tokens": reading.reasoned() },
        "total_tokens": prompt + tokens,
    });
}

/// What the next piece of the answer brings; `None` after the last.
async fn next(
    answers: &mut Answers,
    reading: &mut Reading,
    output: &mut Output,
) -> Result<Option<Vec<Event>>> {
    let mut events = Vec::new();
    match answers.next().await? {
        None => return Ok(None),
        Some((i, Some(piece))) => {
            let parts = reading.push(&piece.text, answers.all[i].tokens);
            parts.into_iter().for_each(|part| output.add(part, &mut events));
        }
        Some((i, None)) => {
            let parts = reading.finish();
            parts.into_iter().for_each(|part| output.add(part, &mut events));
            output.end(answers.all[i].reason() == "stop", &mut events);
        }
    }
    Ok(Some(events))
}

async fn whole(
    mut answers: Answers,
    mut reading: Reading,
    mut object: Value,
    mut output: Output,
    prompt: usize,
) -> Result<Value> {
    while next(&mut answers, &mut reading, &mut output).await?.is_some() {}
    close(&mut object, &answers, &reading, &output, prompt);
    Ok(object)
}

async fn streamed(
    out: Emitter,
    mut answers: Answers,
    mut reading: Reading,
    mut object: Value,
    mut output: Output,
    prompt: usize,
) -> Result<()> {
    let mut number = 0;
    let mut numbered = |(name, mut value): Event| {
        value["type"] = name.into();
        value["sequence_number"] = number.into();
        number += 1;
        (name, value)
    };
    for name in ["response.created", "response.in_progress"] {
        let (name, value) = numbered((name, json!({ "response": object })));
        out.named(name, &value).await;
    }
    while let Some(events) = next(&mut answers, &mut reading, &mut output).await? {
        for event in events {
            let (name, value) = numbered(event);
            out.named(name, &value).await;
        }
    }
    close(&mut object, &answers, &reading, &output, prompt);
    let end = if object["status"] == "completed" { "response.completed" } else { "response.incomplete" };
    let (name, value) = numbered((end, json!({ "response": object })));
    out.named(name, &value).await;
    Ok(())
}
