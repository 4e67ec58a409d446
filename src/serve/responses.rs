//! `POST /v1/responses`: texts in, text out, nothing kept.

use super::answer::Answers;
use super::app::{App, label, now};
use super::chat::{messages_of, text_of, tokens};
use super::error::ApiError;
use super::fields::Fields;
use super::params::{Params, model};
use super::sse::{self, Emitter};
use crate::io::Chat;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::sync::Arc;

type Result<T> = std::result::Result<T, ApiError>;

pub(super) async fn responses(State(app): State<Arc<App>>, request: Request<Body>) -> Result<Response> {
    let label = label(&request);
    let (mut params, tokens, mut object) = app.prepare(request, prepare).await?;
    let prompt = tokens.len();
    let answers = app.submit(&[tokens], &mut params, label)?;
    object["id"] = app.id("resp_").into();
    let item = app.id("msg_");
    if params.stream {
        return Ok(sse::stream(&app, |out| streamed(out, answers, object, item, prompt)));
    }
    Ok(Json(app.until_end(whole(answers, object, item, prompt)).await?).into_response())
}

/// Parameters, the prompt, and the response as far as the request decides it.
fn prepare(app: &App, body: Value) -> Result<(Params, Vec<u32>, Value)> {
    let card = app.card();
    let mut fields = Fields::new(body, "")?;
    let model = model(&mut fields, card, app.options.any_model)?;
    fields.neutral("max_tokens", &[])?;
    fields.neutral("n", &[])?;
    let mut params = Params::take(&mut fields, card)?;
    params.options.max_tokens = fields.count("max_output_tokens", 1, u64::from(u32::MAX))?;
    fields.neutral("store", &[json!(false)])?;
    fields.neutral("background", &[json!(false)])?;
    fields.neutral("truncation", &[json!("disabled")])?;
    fields.neutral("text", &[json!({}), json!({ "format": { "type": "text" } })])?;
    fields.neutral("tools", &[json!([])])?;
    fields.neutral("include", &[json!([])])?;
    fields.neutral("tool_choice", &[json!("auto"), json!("none")])?;
    fields.neutral("parallel_tool_calls", &[json!(true), json!(false)])?;
    fields.neutral("top_logprobs", &[json!(0)])?;
    for field in ["previous_response_id", "conversation", "reasoning", "prompt", "max_tool_calls"] {
        fields.neutral(field, &[])?;
    }
    let metadata = fields.object("metadata")?.unwrap_or_default();
    let instructions = fields.string("instructions")?;
    let input = fields.raw("input");
    let input = fields.required("input", input)?;
    fields.finish()?;
    let mut messages = match input {
        Value::String(text) => vec![json!({ "role": "user", "content": text })],
        Value::Array(items) => {
            let items = items.into_iter().enumerate().map(|(i, item)| input_of(item, &format!("input[{i}]")));
            messages_of(items.collect::<Result<_>>()?)?
        }
        _ => return Err(ApiError::value("input", "`input` must be a string or an array of messages")),
    };
    if let Some(text) = &instructions {
        messages.insert(0, json!({ "role": "system", "content": text }));
    }
    let chat = Chat { messages: &messages, add_generation_prompt: true, ..Chat::default() };
    let tokens = tokens(app, &chat, "input")?;
    let object = json!({
        "id": null, "object": "response", "created_at": now(), "status": "in_progress", "completed_at": null,
        "error": null, "incomplete_details": null, "instructions": instructions,
        "max_output_tokens": params.options.max_tokens, "model": model, "output": [],
        "parallel_tool_calls": true, "previous_response_id": null, "store": false,
        "temperature": params.options.temperature, "top_p": params.options.top_p,
        "text": { "format": { "type": "text" } }, "tool_choice": "auto", "tools": [],
        "truncation": "disabled", "metadata": metadata, "usage": null,
        "presence_penalty": params.presence_penalty, "frequency_penalty": params.frequency_penalty,
        "reasoning": null, "background": false, "service_tier": "default", "top_logprobs": 0,
    });
    Ok((params, tokens, object))
}

/// An item of the input as a message.
fn input_of(item: Value, at: &str) -> Result<Value> {
    let mut fields = Fields::new(item, at)?;
    fields.neutral("type", &[json!("message")])?;
    fields.harmless("id");
    fields.harmless("status");
    let role = fields.string("role")?;
    let name = fields.name("content");
    let content = fields.raw("content");
    let content = text_of(fields.required("content", content)?, &name)?;
    fields.finish()?;
    Ok(json!({ "role": role, "content": content }))
}

fn part(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] })
}

fn message(item: &str, status: &str, content: Value) -> Value {
    json!({ "id": item, "type": "message", "role": "assistant", "status": status, "content": content })
}

/// Fills in how it ended.
fn close(object: &mut Value, answers: &Answers, item: &str, text: &str, prompt: usize) {
    let whole = answers.all.first().is_none_or(|a| a.reason() == "stop");
    let status = if whole { "completed" } else { "incomplete" };
    object["status"] = status.into();
    object["output"] = json!([message(item, status, json!([part(text)]))]);
    if whole {
        object["completed_at"] = now().into();
    } else {
        object["incomplete_details"] = json!({ "reason": "max_output_tokens" });
    }
    let (tokens, cached) = answers.all.first().map_or((0, 0), |a| (a.tokens, a.cached));
    object["usage"] = json!({
        "input_tokens": prompt, "input_tokens_details": { "cached_tokens": cached },
        "output_tokens": tokens, "output_tokens_details": { "reasoning_tokens": 0 },
        "total_tokens": prompt + tokens,
    });
}

async fn whole(mut answers: Answers, mut object: Value, item: String, prompt: usize) -> Result<Value> {
    let mut text = String::new();
    while let Some((_, piece)) = answers.next().await? {
        text += &piece.unwrap_or_default().text;
    }
    close(&mut object, &answers, &item, &text, prompt);
    Ok(object)
}

async fn streamed(
    out: Emitter,
    mut answers: Answers,
    mut object: Value,
    item: String,
    prompt: usize,
) -> Result<()> {
    let mut number = 0;
    let mut event = |name: &str, mut value: Value| {
        value["type"] = name.into();
        value["sequence_number"] = number.into();
        number += 1;
        (name.to_owned(), value)
    };
    let place = json!({ "item_id": item, "output_index": 0, "content_index": 0 });
    let with = |key: &str, value: Value| {
        let mut object = place.clone();
        object[key] = value;
        object
    };
    for (name, value) in [
        event("response.created", json!({ "response": object })),
        event("response.in_progress", json!({ "response": object })),
        event(
            "response.output_item.added",
            json!({ "output_index": 0, "item": message(&item, "in_progress", json!([])) }),
        ),
        event("response.content_part.added", with("part", part(""))),
    ] {
        out.named(&name, &value).await;
    }
    let mut text = String::new();
    while let Some((_, piece)) = answers.next().await? {
        if let Some(piece) = piece {
            text += &piece.text;
            let mut delta = with("delta", piece.text.into());
            delta["logprobs"] = json!([]);
            let (name, value) = event("response.output_text.delta", delta);
            out.named(&name, &value).await;
        }
    }
    close(&mut object, &answers, &item, &text, prompt);
    let mut done = with("text", text.as_str().into());
    done["logprobs"] = json!([]);
    let end = if object["status"] == "completed" { "response.completed" } else { "response.incomplete" };
    for (name, value) in [
        event("response.output_text.done", done),
        event("response.content_part.done", with("part", part(&text))),
        event("response.output_item.done", json!({ "output_index": 0, "item": object["output"][0] })),
        event(end, json!({ "response": object })),
    ] {
        out.named(&name, &value).await;
    }
    Ok(())
}
