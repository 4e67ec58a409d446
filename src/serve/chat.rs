//! `POST /v1/chat/completions`.

use super::answer::{Answers, Piece, Spoken};
use super::app::{App, label, now};
use super::error::ApiError;
use super::fields::{Fields, kind};
use super::grammar::Constraint;
use super::params::{MOST_LOGPROBS, Params, model};
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

/// Messages of a conversation at most.
const MOST_MESSAGES: usize = 4096;

pub(super) struct Prepared {
    pub(super) params: Params,
    pub(super) tokens: Vec<u32>,
    model: String,
}

pub(super) async fn chat(State(app): State<Arc<App>>, request: Request<Body>) -> Result<Response> {
    let label = label(&request);
    let Prepared { mut params, tokens, model } = app.prepare(request, prepare).await?;
    let prompt = tokens.len();
    let answers = app.submit(&[tokens], &mut params, label)?;
    let head = Head { id: app.id("chatcmpl-"), created: now(), model };
    if params.stream {
        return Ok(sse::stream(&app, |out| streamed(out, answers, head, params, prompt)));
    }
    Ok(Json(app.until_end(whole(answers, head, params, prompt)).await?).into_response())
}

fn prepare(app: &App, body: Value) -> Result<Prepared> {
    let card = app.card();
    let mut fields = Fields::new(body, "")?;
    let model = model(&mut fields, card, app.options.any_model)?;
    let mut params = Params::take(&mut fields, card)?;
    if let Some(most) = fields.count("max_completion_tokens", 0, u64::from(u32::MAX))? {
        params.options.max_tokens = Some(params.options.max_tokens.map_or(most, |m| m.min(most)));
    }
    let logprobs = fields.bool("logprobs")?.unwrap_or(false);
    let top = fields.count("top_logprobs", 0, MOST_LOGPROBS)?;
    if top.is_some_and(|k| k > 0) && !logprobs {
        return Err(ApiError::value("top_logprobs", "`top_logprobs` is only possible with `logprobs: true`"));
    }
    params.logprobs = logprobs.then_some(top.unwrap_or(0));
    let form = form(&mut fields)?;
    without_tools(&mut fields)?;
    let messages = fields.array("messages")?;
    let messages = messages_of(fields.required("messages", messages)?)?;
    let kwargs = kwargs(&mut fields)?;
    let continue_final_message = fields.bool("continue_final_message")?.unwrap_or(false);
    let add = fields.bool("add_generation_prompt")?.unwrap_or(!continue_final_message);
    if add && continue_final_message {
        let message = "`continue_final_message` and `add_generation_prompt` exclude each other";
        return Err(ApiError::value("continue_final_message", message));
    }
    fields.finish()?;
    let chat = Chat {
        messages: &messages,
        add_generation_prompt: add,
        continue_final_message,
        kwargs,
        ..Chat::default()
    };
    let tokens = tokens(app, &chat, "messages")?;
    if let Some(form) = form {
        let wrong = |e| ApiError::value("response_format", e);
        let grammars = app.grammars().map_err(wrong)?;
        let matchers = (0..params.n).map(|_| grammars.matcher(&form));
        params.matchers = matchers.collect::<crate::error::Result<_>>().map_err(wrong)?;
    }
    Ok(Prepared { tokens, params, model })
}

/// The prompt of a conversation.
pub(super) fn tokens(app: &App, chat: &Chat<'_>, param: &str) -> Result<Vec<u32>> {
    let Some(template) = &app.card().template else {
        return Err(ApiError::bad("This model has no chat template: use /v1/completions."));
    };
    // Whatever a template says of a conversation, the conversation can be mended.
    let text = template.render(chat).map_err(|e| ApiError::value(param, e))?;
    app.encode(&text, false, param)
}

/// The form that the answer must have. It has it from its first character, without reasoning before it.
fn form(fields: &mut Fields) -> Result<Option<Constraint>> {
    let Some(format) = fields.raw("response_format") else { return Ok(None) };
    let mut format = Fields::new(format, "response_format")?;
    let kind = format.string("type")?;
    let form = match format.required("type", kind)?.as_str() {
        "text" => None,
        "json_object" => Some(Constraint::json_object()),
        "json_schema" => {
            let inner = format.raw("json_schema");
            let inner = format.required("json_schema", inner)?;
            let mut inner = Fields::new(inner, "response_format.json_schema")?;
            let name = inner.string("name")?;
            inner.required("name", name)?;
            inner.string("description")?;
            // Strict or not, the schema is kept.
            inner.bool("strict")?;
            let schema = inner.raw("schema");
            let schema = inner.required("schema", schema)?;
            let name = inner.name("schema");
            inner.finish()?;
            Some(Constraint::json_schema(&schema).map_err(|e| ApiError::value(name, e))?)
        }
        _ => {
            let message = "`response_format.type` must be text, json_object or json_schema";
            return Err(ApiError::unsupported(format.name("type"), message));
        }
    };
    format.finish()?;
    Ok(form)
}

/// What would let the answer call tools; also what other media would need.
fn without_tools(fields: &mut Fields) -> Result<()> {
    fields.neutral("tools", &[json!([])])?;
    fields.neutral("tool_choice", &[json!("none"), json!("auto")])?;
    fields.neutral("parallel_tool_calls", &[json!(true), json!(false)])?;
    fields.neutral("functions", &[json!([])])?;
    fields.neutral("function_call", &[json!("none"), json!("auto")])?;
    fields.neutral("modalities", &[json!(["text"])])?;
    fields.neutral("store", &[json!(false)])?;
    fields.neutral("metadata", &[json!({})])?;
    for field in ["audio", "prediction", "reasoning_effort", "verbosity", "web_search_options"] {
        fields.neutral(field, &[])?;
    }
    Ok(())
}

/// Variables for the template. Templates themselves never come from a request.
fn kwargs(fields: &mut Fields) -> Result<Map<String, Value>> {
    let kwargs = fields.object("chat_template_kwargs")?.unwrap_or_default();
    for reserved in ["chat_template", "messages", "tools", "documents"] {
        if kwargs.contains_key(reserved) {
            let param = format!("chat_template_kwargs.{reserved}");
            return Err(ApiError::unsupported(&param, format!("`{param}` cannot be set by a request")));
        }
    }
    Ok(kwargs)
}

/// Messages as templates know them.
pub(super) fn messages_of(items: Vec<Value>) -> Result<Vec<Value>> {
    if items.is_empty() || items.len() > MOST_MESSAGES {
        let message = format!("`messages` must have from 1 to {MOST_MESSAGES} messages");
        return Err(ApiError::value("messages", message));
    }
    items.into_iter().enumerate().map(|(i, item)| message(item, &format!("messages[{i}]"))).collect()
}

fn message(item: Value, at: &str) -> Result<Value> {
    let mut fields = Fields::new(item, at)?;
    let role = fields.string("role")?;
    let role = fields.required("role", role)?;
    let role = match role.as_str() {
        "system" | "user" | "assistant" => role,
        "developer" => "system".to_owned(),
        "tool" | "function" => {
            let message = "messages of tools are not supported by this server";
            return Err(ApiError::unsupported(fields.name("role"), message));
        }
        _ => {
            let message = "a role must be system, developer, user, assistant or tool";
            return Err(ApiError::value(fields.name("role"), message));
        }
    };
    let name = fields.name("content");
    let content = fields.raw("content");
    let content = text_of(fields.required("content", content)?, &name)?;
    fields.neutral("tool_calls", &[json!([])])?;
    for field in ["tool_call_id", "function_call", "refusal", "audio"] {
        fields.neutral(field, &[])?;
    }
    fields.neutral("annotations", &[json!([])])?;
    let mut message = json!({ "role": role, "content": content });
    for extra in ["name", "reasoning_content"] {
        if let Some(text) = fields.string(extra)? {
            message[extra] = text.into();
        }
    }
    fields.finish()?;
    Ok(message)
}

/// The text of a content: a string, or parts of type `text`.
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
                if !["text", "input_text", "output_text"].contains(&kind.as_str()) {
                    let message = "only parts of type `text` are supported by this model";
                    return Err(ApiError::unsupported(part.name("type"), message));
                }
                let text = part.string("text")?;
                all += &part.required("text", text)?;
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

/// What all chunks of a response begin with.
pub(super) struct Head {
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) model: String,
}

impl Head {
    pub(super) fn object(&self, kind: &str, choices: Value) -> Value {
        json!({ "id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices })
    }
}

async fn whole(mut answers: Answers, head: Head, params: Params, prompt: usize) -> Result<Value> {
    let all = answers.collect().await?;
    let choices = all.into_iter().enumerate().map(|(i, Piece { text, tokens })| {
        let logprobs = if params.logprobs.is_some() {
            json!({ "content": tokens.iter().map(logprob).collect::<Value>(), "refusal": null })
        } else {
            Value::Null
        };
        json!({
            "index": i,
            "message": { "role": "assistant", "content": text, "refusal": null },
            "logprobs": logprobs,
            "finish_reason": answers.all[i].reason(),
        })
    });
    let mut object = head.object("chat.completion", choices.collect());
    object["usage"] = answers.usage(prompt);
    Ok(object)
}

async fn streamed(
    out: Emitter,
    mut answers: Answers,
    head: Head,
    params: Params,
    prompt: usize,
) -> Result<()> {
    let chunk = |index: usize, delta: Value, piece: Option<&Piece>, reason: Option<&str>| {
        let logprobs = match piece.filter(|_| params.logprobs.is_some()) {
            Some(piece) => {
                json!({ "content": piece.tokens.iter().map(logprob).collect::<Value>(), "refusal": null })
            }
            None => Value::Null,
        };
        let choice = json!({ "index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason });
        let mut object = head.object("chat.completion.chunk", json!([choice]));
        if params.include_usage {
            object["usage"] = Value::Null;
        }
        object
    };
    for i in 0..answers.all.len() {
        out.json(&chunk(i, json!({ "role": "assistant", "content": "" }), None, None)).await;
    }
    while let Some((i, piece)) = answers.next().await? {
        let event = match &piece {
            Some(piece) => chunk(i, json!({ "content": piece.text }), Some(piece), None),
            None => chunk(i, json!({}), None, Some(answers.all[i].reason())),
        };
        out.json(&event).await;
    }
    if params.include_usage {
        let mut object = head.object("chat.completion.chunk", json!([]));
        object["usage"] = answers.usage(prompt);
        out.json(&object).await;
    }
    out.done().await;
    Ok(())
}

fn logprob(token: &Spoken) -> Value {
    let one = |text: &str, p: f32| json!({ "token": text, "logprob": finite(p), "bytes": text.as_bytes() });
    let mut object = one(&token.text, token.logprob);
    object["top_logprobs"] = token.top.iter().map(|(text, p)| one(text, *p)).collect();
    object
}

/// JSON has no infinity; OpenAI writes this for what is impossible.
pub(super) fn finite(p: f32) -> f32 {
    if p.is_finite() { p } else { -9999.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::{MockEngine, Script, router};
    use tower::ServiceExt;

    #[tokio::test]
    async fn an_answer_has_the_form_that_is_asked_for() {
        let object = json!({ "type": "json_object" });
        let schema = json!({ "type": "json_schema", "json_schema": { "name": "age", "strict": true, "schema": {
        "type": "object", "properties": { "age": { "type": "integer" } }, "required": ["age"],
        "additionalProperties": false } } });
        for (answer, format, good) in [
            ("{\"age\": 7}", &object, true),
            ("{\"age\": 7}", &schema, true),
            ("{\"age\": \"7\"}", &object, true),
            ("{\"age\": \"7\"}", &schema, false),
            ("seven", &object, false),
        ] {
            // What follows the object is cut off: the answer is complete.
            let script = Script { answer: Some(format!("{answer} and more")), ..Script::default() };
            let body = json!({ "model": "mock", "messages": [{ "role": "user", "content": "hi" }],
            "n": 2, "response_format": format });
            let request = Request::post("/v1/chat/completions").body(Body::from(body.to_string())).unwrap();
            let response = router(MockEngine::new(script).unwrap()).oneshot(request).await.unwrap();
            assert_eq!(response.status(), if good { 200 } else { 400 }, "{answer} {format}");
            let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
            let body: Value = serde_json::from_slice(&bytes).unwrap();
            for choice in body["choices"].as_array().into_iter().flatten() {
                let said = (&choice["message"]["content"], &choice["finish_reason"]);
                assert_eq!(said, (&json!(answer), &json!("stop")));
            }
        }
    }
}
