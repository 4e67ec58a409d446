//! `POST /v1/responses`: texts and results of functions in; text and calls out; kept unless `store` is false.

use super::answer::Answers;
use super::app::{App, Caller, now};
use super::chat::{Conversation, converse, logprob, think, tools_of};
use super::error::ApiError;
use super::fields::Fields;
use super::form::text_format;
use super::messages::{count, message, text_of};
use super::output::{Event, Output};
use super::params::{MOST_LOGPROBS, Params, model};
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
    let caller = Caller::of(&request);
    let key = caller.key;
    let prepared = app.prepare(request, move |app, body| prepare(app, body, key)).await?;
    let (mut params, conversation, before, mut object) = prepared;
    let Conversation { tokens, reading } = conversation;
    let prompt = tokens.len();
    let answers = app.submit(&[tokens], &mut params, caller)?;
    let id = app.id("");
    object["id"] = format!("resp_{id}").into();
    let output = Output::new(&id);
    if params.stream {
        let mut stream = Streamed { object, output, answers, reading, prompt, number: 0 };
        return Ok(sse::response(|out| async move {
            let keep = |object: &Value| keep(&app, key, before, object);
            if let Err(error) = app.until_end(stream.write(&out, keep)).await {
                stream.fail(&out, &error).await;
            }
        }));
    }
    let object = app.until_end(whole(answers, reading, object, output, prompt)).await?;
    keep(&app, key, before, &object);
    Ok(Json(object).into_response())
}

/// Keeps a response that has ended, if it is to be kept, before its client learns of the end.
fn keep(app: &App, key: u64, before: String, object: &Value) {
    if object["store"] == true {
        app.kept.keep(key, before, object);
    }
}

/// Parameters, the prompt, its items as far as they are kept, and the response as far as the request decides it.
fn prepare(app: &App, body: Value, key: u64) -> Result<(Params, Conversation, String, Value)> {
    let card = app.card();
    let mut fields = Fields::new(body, "")?;
    let model = model(&mut fields, card, app.options.any_model)?;
    fields.neutral("max_tokens", &[])?;
    fields.neutral("n", &[])?;
    let mut params = Params::take(&mut fields, card)?;
    params.options.max_tokens = fields.count("max_output_tokens", 1, u64::from(u32::MAX))?;
    let store = fields.bool("store")?;
    if store == Some(true) && !app.kept.is_on() {
        return Err(ApiError::unsupported("store", "this server keeps no responses"));
    }
    let store = store.unwrap_or(app.kept.is_on());
    fields.neutral("background", &[json!(false)])?;
    fields.neutral("truncation", &[json!("disabled")])?;
    params.logprobs = logprobs(&mut fields)?;
    let previous = fields.string("previous_response_id")?;
    for field in ["conversation", "prompt", "max_tool_calls"] {
        fields.neutral(field, &[])?;
    }
    let (kwargs, reasoning) = reasoning(&mut fields, app)?;
    let (form, format) = text_format(&mut fields)?;
    let (tools, choice) = (fields.array("tools")?.unwrap_or_default(), fields.raw("tool_choice"));
    let parallel = fields.bool("parallel_tool_calls")?;
    let list = tools.iter().map(nested).collect();
    let chosen = choice.as_ref().map(nested_choice);
    let functions = tools_of(Some(list), chosen, parallel)?;
    let metadata = fields.object("metadata")?.unwrap_or_default();
    let instructions = fields.string("instructions")?;
    let input = fields.raw("input");
    let input = fields.required("input", input)?;
    fields.finish()?;
    let mut items = match &previous {
        Some(id) => app
            .kept
            .history(key, id)
            .ok_or_else(|| unknown("previous_response_id", "previous_response_not_found", "Response", id))?,
        None => Vec::new(),
    };
    let before = items.len();
    match input {
        Value::String(text) => items.push(json!({ "type": "message", "role": "user", "content": text })),
        Value::Array(input) => items.extend(input),
        _ => return Err(ApiError::value("input", "`input` must be a string or an array of items")),
    }
    count(items.len(), "input")?;
    let mut room = app.options.body_limit;
    for (i, item) in items[before..].iter_mut().enumerate() {
        refer(app, key, item, &format!("input[{i}]"), &mut room)?;
    }
    let kept = if store { serde_json::to_string(&items).unwrap_or_default() } else { String::new() };
    let mut messages = messages_of(items, before)?;
    if let Some(text) = &instructions {
        messages.insert(0, json!({ "role": "system", "content": text }));
    }
    let chat = Chat { messages: &messages, add_generation_prompt: true, kwargs, ..Chat::default() };
    let conversation = converse(app, chat, &functions, form, &mut params, ["input", "text.format"])?;
    let object = json!({
        "id": null, "object": "response", "created_at": now(), "status": "in_progress", "completed_at": null,
        "error": null, "incomplete_details": null, "instructions": instructions,
        "max_output_tokens": params.options.max_tokens, "max_tool_calls": null, "model": model, "output": [],
        "parallel_tool_calls": parallel.unwrap_or(true), "previous_response_id": previous,
        "prompt_cache_key": null, "safety_identifier": null, "store": store,
        "temperature": params.options.temperature, "top_p": params.options.top_p,
        "text": { "format": format.unwrap_or(json!({ "type": "text" })) },
        "tool_choice": choice.unwrap_or(json!("auto")), "tools": tools.iter().map(whole_tool).collect::<Value>(),
        "truncation": "disabled", "metadata": metadata, "usage": null,
        "presence_penalty": params.presence_penalty, "frequency_penalty": params.frequency_penalty,
        "reasoning": reasoning, "background": false, "service_tier": "default",
        "top_logprobs": params.logprobs.unwrap_or(0),
    });
    Ok((params, conversation, kept, object))
}

/// Puts a kept item in the place of what refers to it. All such items have as much room as a body.
fn refer(app: &App, key: u64, item: &mut Value, at: &str, room: &mut usize) -> Result<()> {
    // Clients leave the type out.
    let refers = match &item["type"] {
        Value::Null => item.get("role").is_none() && item.get("id").is_some(),
        kind => kind == "item_reference",
    };
    if refers {
        let mut fields = Fields::new(item.take(), at)?;
        fields.harmless("type");
        let id = fields.string("id")?;
        let id = fields.required("id", id)?;
        fields.finish()?;
        *item = app
            .kept
            .item(key, &id)
            .ok_or_else(|| unknown(&format!("{at}.id"), "item_not_found", "Item", &id))?;
        *room = room
            .checked_sub(item.to_string().len())
            .ok_or_else(|| ApiError::value(at, "the items referred to are larger than a body may be"))?;
    }
    Ok(())
}

/// What a client refers to is not kept: it never was, or no longer is.
fn unknown(param: &str, code: &'static str, what: &str, id: &str) -> ApiError {
    let id: String = id.chars().take(64).collect();
    let error = ApiError::value(param, format!("{what} with id '{id}' not found."));
    ApiError { code: Some(code), ..error }
}

/// Takes `include` and `top_logprobs`: how many likely tokens are wanted beside each one, if any are.
fn logprobs(fields: &mut Fields) -> Result<Option<usize>> {
    let mut wanted = false;
    for item in fields.array("include")?.unwrap_or_default() {
        match item.as_str() {
            Some("message.output_text.logprobs") => wanted = true,
            // Thoughts are there as they are, and come back as they are.
            Some("reasoning.encrypted_content") => {}
            _ => {
                let message =
                    "`include` may have message.output_text.logprobs and reasoning.encrypted_content";
                return Err(ApiError::unsupported("include", message));
            }
        }
    }
    let top = fields.count("top_logprobs", 0, MOST_LOGPROBS)?.unwrap_or(0);
    Ok((wanted || top > 0).then_some(top))
}

/// Takes `reasoning`: what the template gets, and the field as the response has it.
fn reasoning(fields: &mut Fields, app: &App) -> Result<(Map<String, Value>, Value)> {
    let mut kwargs = Map::new();
    let Some(reasoning) = fields.raw("reasoning") else { return Ok((kwargs, Value::Null)) };
    let mut reasoning = Fields::new(reasoning, "reasoning")?;
    let effort = reasoning.string("effort")?;
    if let Some(effort) = &effort {
        think(app, effort, "reasoning.effort", &mut kwargs)?;
    }
    // There are no summaries: where the choice is left open, the thoughts themselves are there.
    for field in ["summary", "generate_summary"] {
        reasoning.neutral(field, &[json!("auto")])?;
    }
    reasoning.finish()?;
    Ok((kwargs, json!({ "effort": effort, "summary": null })))
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

/// [`nested`], and so is each of the tools that a choice allows.
fn nested_choice(choice: &Value) -> Value {
    let mut nested = nested(choice);
    if nested["type"] == "allowed_tools" {
        let mut allowed = nested["function"].take();
        let tools = allowed.get_mut("tools").and_then(Value::as_array_mut);
        for tool in tools.into_iter().flatten() {
            *tool = self::nested(tool);
        }
        return json!({ "type": "allowed_tools", "allowed_tools": allowed });
    }
    nested
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

/// Items as messages; those from number `before` on are the request's own, the others are kept ones.
fn messages_of(items: Vec<Value>, before: usize) -> Result<Vec<Value>> {
    let mut messages: Vec<Value> = Vec::with_capacity(items.len());
    for (i, item) in items.into_iter().enumerate() {
        let at = match i.checked_sub(before) {
            Some(own) => format!("input[{own}]"),
            None => format!("previous_response_id[{i}]"),
        };
        let next = input(item, &at)?;
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
            let message =
                "an item must be a message, function_call, function_call_output, reasoning or item_reference";
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
        "input_tokens": prompt,
        "input_tokens_details": { "cached_tokens": cached, "cache_write_tokens": 0 },
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
            output.spoken(piece.tokens.iter().map(logprob));
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

/// A response that is told as it grows.
struct Streamed {
    object: Value,
    output: Output,
    answers: Answers,
    reading: Reading,
    prompt: usize,
    /// Events so far.
    number: usize,
}

impl Streamed {
    async fn write(&mut self, out: &Emitter, keep: impl FnOnce(&Value)) -> Result<()> {
        for name in ["response.created", "response.in_progress"] {
            self.tell(out, (name, json!({ "response": self.object }))).await;
        }
        while let Some(events) = next(&mut self.answers, &mut self.reading, &mut self.output).await? {
            for event in events {
                self.tell(out, event).await;
            }
        }
        close(&mut self.object, &self.answers, &self.reading, &self.output, self.prompt);
        keep(&self.object);
        let whole = self.object["status"] == "completed";
        let end = if whole { "response.completed" } else { "response.incomplete" };
        self.tell(out, (end, json!({ "response": self.object }))).await;
        Ok(())
    }

    /// The error by itself, for clients that look for one, and a response that has failed.
    async fn fail(&mut self, out: &Emitter, error: &ApiError) {
        let mut value = error.body();
        for key in ["code", "message", "param"] {
            value[key] = value["error"][key].clone();
        }
        self.tell(out, ("error", value)).await;
        self.object["status"] = "failed".into();
        self.object["output"] = self.output.items().into();
        self.object["error"] = json!({ "code": "server_error", "message": error.message });
        self.tell(out, ("response.failed", json!({ "response": self.object }))).await;
    }

    async fn tell(&mut self, out: &Emitter, (name, mut value): Event) {
        value["type"] = name.into();
        value["sequence_number"] = self.number.into();
        self.number += 1;
        out.named(name, &value).await;
    }
}
