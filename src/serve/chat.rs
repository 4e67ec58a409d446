//! `POST /v1/chat/completions`.

use super::answer::{Answers, Piece, Spoken};
use super::app::{App, Caller, now};
use super::error::ApiError;
use super::fields::Fields;
use super::form::response_format;
use super::grammar::Constraint;
use super::messages::messages_of;
use super::params::{MOST_LOGPROBS, Params, model};
use super::parts::{Part, Reading, Said};
use super::reasoning::{ReasoningSplitter, effort, is_closed, is_open};
use super::sse::{self, Emitter};
use super::tool_prompt;
use super::tools::{ToolCall, ToolChoice, ToolFormat, Tools};
use crate::io::Chat;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use std::sync::Arc;

type Result<T> = std::result::Result<T, ApiError>;

/// A conversation, ready for the engine.
pub(super) struct Conversation {
    pub(super) tokens: Vec<u32>,
    /// How each answer is read.
    pub(super) reading: Reading,
}

struct Prepared {
    params: Params,
    conversation: Conversation,
    model: String,
}

pub(super) async fn chat(State(app): State<Arc<App>>, request: Request<Body>) -> Result<Response> {
    let caller = Caller::of(&request);
    let Prepared { mut params, conversation, model } = app.prepare(request, prepare).await?;
    let Conversation { tokens, reading } = conversation;
    let prompt = tokens.len();
    let answers = app.submit(&[tokens], &mut params, caller)?;
    let readings = vec![reading; answers.all.len()];
    let head = Head { id: app.id("chatcmpl-"), created: now(), model };
    if params.stream {
        return Ok(sse::stream(&app, |out| streamed(out, answers, readings, head, params, prompt)));
    }
    Ok(Json(app.until_end(whole(answers, readings, head, params, prompt)).await?).into_response())
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
    let form = response_format(&mut fields)?;
    let (tools, choice) = (fields.raw("tools"), fields.raw("tool_choice"));
    let tools = tools_of(tools, choice, fields.bool("parallel_tool_calls")?)?;
    other_media(&mut fields)?;
    let messages = fields.array("messages")?;
    let messages = messages_of(fields.required("messages", messages)?)?;
    let mut kwargs = kwargs(&mut fields)?;
    if let Some(wanted) = fields.string("reasoning_effort")? {
        think(app, &wanted, "reasoning_effort", &mut kwargs)?;
    }
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
    let conversation = converse(app, chat, &tools, form, &mut params, ["messages", "response_format"])?;
    Ok(Prepared { conversation, params, model })
}

/// `tools` and what belongs to it; errors name the field.
pub(super) fn tools_of(tools: Option<Value>, choice: Option<Value>, parallel: Option<bool>) -> Result<Tools> {
    Tools::parse(tools.as_ref(), choice.as_ref(), parallel).map_err(|e| {
        let message = e.to_string();
        // The message begins with the path to the field.
        let path: Vec<&str> = message.split(": ").take_while(|word| !word.contains(' ')).collect();
        let param = if path.is_empty() { "tools".to_owned() } else { path.join(".") };
        if e.is_unsupported() {
            ApiError::unsupported(param, message)
        } else {
            ApiError::value(param, message)
        }
    })
}

/// Renders a conversation, and says what the answer must be and how it is read. `names` are what errors call
/// the messages and the form.
pub(super) fn converse(
    app: &App,
    chat: Chat<'_>,
    tools: &Tools,
    form: Option<Constraint>,
    params: &mut Params,
    names: [&str; 2],
) -> Result<Conversation> {
    let Some(template) = &app.card().template else {
        return Err(ApiError::bad("This model has no chat template: use /v1/completions."));
    };
    let style = app.style();
    let format = style.tools.unwrap_or(ToolFormat::Hermes);
    let called = |message: &Value| message.get("tool_calls").is_some() || message["role"] == "tool";
    let known = tools.for_template();
    let unknown = style.tools.is_none() && (known.is_some() || chat.messages.iter().any(called));
    let plain = if unknown { tool_prompt::plain(chat.messages, known) } else { Vec::new() };
    let chat = match unknown {
        true => Chat { messages: &plain, ..chat },
        false => Chat { tools: known, ..chat },
    };
    // Whatever a template says of a conversation, the conversation can be mended.
    let text = template.render(&chat).map_err(|e| ApiError::value(names[0], e))?;
    let tokens = app.encode(&text, false, names[0])?;
    let open = (style.reasoning && !is_closed(&text)).then(|| is_open(&text));
    let parser = tools.parser(format);
    if parser.is_some() {
        params.show_special = app.hides(format.mark());
    }
    let bad_tools = |e| ApiError::value("tools", e);
    let forced = matches!(tools.choice(), ToolChoice::Required | ToolChoice::Named(_));
    let (constraint, param) = match form {
        Some(form) if parser.is_some() && !forced => {
            (Some(tools.calls(format).map_err(bad_tools)?.or(form)), names[1])
        }
        form => match tools.constraint(format).map_err(bad_tools)? {
            Some(calls) => (Some(calls), "tools"),
            None => (form, names[1]),
        },
    };
    if let Some(constraint) = constraint {
        let constraint = match open {
            Some(open) => constraint.after_reasoning(open),
            None => constraint,
        };
        app.constrain(params, &constraint, params.n, param)?;
    }
    let splitter = style.reasoning.then(|| ReasoningSplitter::after(&text));
    let named = matches!(tools.choice(), ToolChoice::Named(_));
    Ok(Conversation { tokens, reading: Reading::new(splitter, parser, named) })
}

/// What other media, and older forms of tools, would need.
fn other_media(fields: &mut Fields) -> Result<()> {
    fields.neutral("functions", &[json!([])])?;
    fields.neutral("function_call", &[json!("none"), json!("auto")])?;
    fields.neutral("modalities", &[json!(["text"])])?;
    fields.neutral("store", &[json!(false)])?;
    fields.object("metadata")?; // of no use without a store, and of no harm
    fields.neutral("verbosity", &[json!("medium")])?;
    fields.object("prediction")?; // it could make the same answer come sooner
    for field in ["audio", "web_search_options"] {
        fields.neutral(field, &[])?;
    }
    Ok(())
}

/// Tells the template how much thinking is wanted. `param` is what errors call it.
pub(super) fn think(app: &App, wanted: &str, param: &str, kwargs: &mut Map<String, Value>) -> Result<()> {
    if !["none", "minimal", "low", "medium", "high", "xhigh", "max"].contains(&wanted) {
        let message = format!("`{param}` must be none, minimal, low, medium, high, xhigh or max");
        return Err(ApiError::value(param, message));
    }
    match app.card().template.as_ref().and_then(|template| effort(template, wanted)) {
        Some((name, value)) => {
            kwargs.entry(name).or_insert(value);
            Ok(())
        }
        None if wanted == "none" && !app.style().reasoning => Ok(()),
        None => Err(ApiError::unsupported(param, format!("`{param}` is not supported by this model"))),
    }
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

/// What all chunks of a response begin with.
pub(super) struct Head {
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) model: String,
}

impl Head {
    pub(super) fn object(&self, kind: &str, choices: Value) -> Value {
        const VERSION: &str = concat!("unimlx-", env!("CARGO_PKG_VERSION"));
        json!({ "id": self.id, "object": kind, "created": self.created, "model": self.model,
            "system_fingerprint": VERSION, "choices": choices })
    }

    /// The id of a call.
    fn call(&self, choice: usize, index: usize) -> String {
        let id = self.id.split_once('-').map_or(self.id.as_str(), |(_, id)| id);
        format!("call_{id}{choice:02}{index:02}")
    }
}

fn usage(answers: &Answers, readings: &[Reading], prompt: usize) -> Value {
    let mut usage = answers.usage(prompt);
    let reasoned: usize = readings.iter().map(Reading::reasoned).sum();
    usage["completion_tokens_details"] = json!({ "reasoning_tokens": reasoned });
    usage
}

async fn whole(
    mut answers: Answers,
    mut readings: Vec<Reading>,
    head: Head,
    params: Params,
    prompt: usize,
) -> Result<Value> {
    let mut all: Vec<(Said, Vec<Spoken>)> = vec![Default::default(); readings.len()];
    while let Some((i, piece)) = answers.next().await? {
        let (said, tokens) = &mut all[i];
        match piece {
            Some(piece) => {
                said.add(readings[i].push(&piece.text, answers.all[i].tokens));
                tokens.extend(piece.tokens);
            }
            None => said.add(readings[i].finish()),
        }
    }
    let choices = all.into_iter().enumerate().map(|(i, (said, tokens))| {
        let call = |(index, call): (usize, &ToolCall)| {
            json!({ "id": head.call(i, index), "type": "function",
                "function": { "name": call.name, "arguments": call.arguments } })
        };
        let content =
            if said.content.is_empty() && !said.calls.is_empty() { Value::Null } else { said.content.into() };
        let mut message = json!({ "role": "assistant", "content": content, "refusal": null });
        if !said.reasoning.is_empty() {
            message["reasoning_content"] = said.reasoning.into();
        }
        if !said.calls.is_empty() {
            message["tool_calls"] = said.calls.iter().enumerate().map(call).collect();
        }
        json!({
            "index": i,
            "message": message,
            "logprobs": logprobs(params.logprobs.map(|_| &tokens[..])),
            "finish_reason": readings[i].reason(answers.all[i].reason()),
        })
    });
    let mut object = head.object("chat.completion", choices.collect());
    object["usage"] = usage(&answers, &readings, prompt);
    Ok(object)
}

async fn streamed(
    out: Emitter,
    mut answers: Answers,
    mut readings: Vec<Reading>,
    head: Head,
    params: Params,
    prompt: usize,
) -> Result<()> {
    let chunk = |index: usize, delta: Value, tokens: Option<&[Spoken]>, reason: Option<&str>| {
        let logprobs = logprobs(tokens.filter(|_| params.logprobs.is_some()));
        let choice = json!({ "index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason });
        let mut object = head.object("chat.completion.chunk", json!([choice]));
        if params.include_usage {
            object["usage"] = Value::Null;
        }
        object
    };
    let delta = |i: usize, part: Part| match part {
        Part::Reasoning(text) => json!({ "reasoning_content": text }),
        Part::Content(text) => json!({ "content": text }),
        Part::Call { index, name } => json!({ "tool_calls": [{ "index": index, "id": head.call(i, index),
            "type": "function", "function": { "name": name, "arguments": "" } }] }),
        Part::Arguments { index, delta } => {
            json!({ "tool_calls": [{ "index": index, "function": { "arguments": delta } }] })
        }
    };
    for i in 0..answers.all.len() {
        out.json(&chunk(i, json!({ "role": "assistant", "content": "" }), None, None)).await;
    }
    while let Some((i, piece)) = answers.next().await? {
        let ended = piece.is_none();
        let (parts, mut tokens) = match piece {
            Some(Piece { text, tokens }) => {
                (readings[i].push(&text, answers.all[i].tokens), (!tokens.is_empty()).then_some(tokens))
            }
            None => (readings[i].finish(), None),
        };
        for part in parts {
            out.json(&chunk(i, delta(i, part), tokens.take().as_deref(), None)).await;
        }
        if let Some(tokens) = tokens {
            // Their text is held back, or is none of the client's.
            out.json(&chunk(i, json!({}), Some(&tokens), None)).await;
        }
        if ended {
            let reason = readings[i].reason(answers.all[i].reason());
            out.json(&chunk(i, json!({}), None, Some(reason))).await;
        }
    }
    if params.include_usage {
        let mut object = head.object("chat.completion.chunk", json!([]));
        object["usage"] = usage(&answers, &readings, prompt);
        out.json(&object).await;
    }
    out.done().await;
    Ok(())
}

fn logprobs(tokens: Option<&[Spoken]>) -> Value {
    let Some(tokens) = tokens else { return Value::Null };
    json!({ "content": tokens.iter().map(logprob).collect::<Value>(), "refusal": null })
}

pub(super) fn logprob(token: &Spoken) -> Value {
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
