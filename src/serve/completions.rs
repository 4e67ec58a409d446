//! `POST /v1/completions`: prompts as text or tokens, continued.

use super::answer::{Answers, Piece, Spoken};
use super::app::{App, Caller, blocking, now};
use super::chat::{Head, finite};
use super::engine::Logprobs;
use super::error::ApiError;
use super::fields::Fields;
use super::form::response_format;
use super::params::{MOST_ANSWERS, MOST_LOGPROBS, Params, model, token_id};
use super::sse::{self, Emitter};
use crate::io::Tokenizer;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use std::sync::Arc;

type Result<T> = std::result::Result<T, ApiError>;

/// Probabilities of prompts that one request may have: each takes a few hundred bytes on its way.
const MOST_ECHOED: usize = 1 << 19;

struct Prepared {
    params: Params,
    prompts: Vec<Vec<u32>>,
    shown: Shown,
    model: String,
}

/// What of the answers is shown.
#[derive(Clone, Copy)]
struct Shown {
    /// The prompts before them.
    echo: bool,
    /// How many answers to each prompt are shown, the likeliest ones.
    n: usize,
    /// `Some(k)`: probabilities of tokens and of the `k` likeliest.
    logprobs: Option<usize>,
}

pub(super) async fn completions(State(app): State<Arc<App>>, request: Request<Body>) -> Result<Response> {
    let caller = Caller::of(&request);
    let Prepared { mut params, prompts, shown, model } = app.prepare(request, prepare).await?;
    let prompt = prompts.iter().map(Vec::len).sum();
    let echoes =
        if shown.echo { app.until_end(echoes(&app, &prompts, shown.logprobs)).await? } else { Vec::new() };
    let answers = app.submit(&prompts, &mut params, caller)?;
    let head = Head { id: app.id("cmpl-"), created: now(), model };
    let begin = |i: usize| echoes.get(i / params.n).cloned().unwrap_or_default();
    let begin: Vec<Piece> = (0..answers.all.len()).map(begin).collect();
    if params.stream {
        return Ok(sse::stream(&app, |out| streamed(out, answers, head, params, begin, prompt)));
    }
    Ok(Json(app.until_end(whole(answers, head, params.n, shown, begin, prompt)).await?).into_response())
}

/// The prompts as texts, with the probabilities of their tokens if they are wanted.
async fn echoes(app: &Arc<App>, prompts: &[Vec<u32>], logprobs: Option<usize>) -> Result<Vec<Piece>> {
    let scores = match logprobs {
        Some(top) => {
            let message = "`echo` with `logprobs` is not supported by this engine";
            let scores = app.engine.score(prompts.to_vec(), top);
            Some(scores.ok_or_else(|| ApiError::unsupported("echo", message))?.await?)
        }
        None => None,
    };
    let (app, prompts) = (app.clone(), prompts.to_vec());
    blocking(move || pieces(&app.card().tokenizer, &prompts, scores)).await
}

fn pieces(
    tokenizer: &Tokenizer,
    prompts: &[Vec<u32>],
    scores: Option<Vec<Vec<Logprobs>>>,
) -> Result<Vec<Piece>> {
    let Some(scores) = scores else {
        let piece = |ids: &Vec<u32>| Ok(Piece { text: tokenizer.decode(ids, true)?, tokens: Vec::new() });
        return prompts.iter().map(piece).collect();
    };
    // There is nothing before the first token that could make it likely.
    let none = Logprobs { chosen: f32::NAN, top: Vec::new() };
    let mut pieces = Vec::with_capacity(prompts.len());
    for (ids, scores) in prompts.iter().zip(scores) {
        let (mut decoder, mut piece) = (tokenizer.stream(true), Piece::default());
        for (i, (&id, logprobs)) in ids.iter().zip(std::iter::once(&none).chain(&scores)).enumerate() {
            let mut text = decoder.push(id)?;
            if i + 1 == ids.len() {
                text += &decoder.finish()?;
            }
            piece.tokens.push(Spoken::new(text.clone(), logprobs, piece.text.len(), tokenizer)?);
            piece.text += &text;
        }
        pieces.push(piece);
    }
    Ok(pieces)
}

fn prepare(app: &App, body: Value) -> Result<Prepared> {
    let card = app.card();
    let mut fields = Fields::new(body, "")?;
    let model = model(&mut fields, card, app.options.any_model)?;
    let mut params = Params::take(&mut fields, card)?;
    params.options.max_tokens.get_or_insert(16); // as OpenAI has it
    params.logprobs = fields.count("logprobs", 0, MOST_LOGPROBS)?;
    let echo = fields.bool("echo")?.unwrap_or(false);
    let shown = Shown { echo, n: params.n, logprobs: params.logprobs };
    params.n = fields.count("best_of", 1, MOST_ANSWERS)?.unwrap_or(params.n);
    if params.n < shown.n {
        return Err(ApiError::value(
            "best_of",
            format!("`best_of` is {}, less than `n`, {}", params.n, shown.n),
        ));
    }
    if params.n > shown.n {
        if params.stream {
            return Err(ApiError::value("best_of", "the best of several answers cannot be streamed"));
        }
        params.logprobs.get_or_insert(0);
    }
    fields.neutral("suffix", &[json!("")])?;
    let form = response_format(&mut fields)?;
    let prompt = fields.raw("prompt");
    let prompt = fields.required("prompt", prompt)?;
    fields.finish()?;
    let prompts = prompts_of(app, prompt, "prompt", MOST_ANSWERS as usize / params.n)?;
    for prompt in &prompts {
        app.fits(prompt, "prompt")?;
    }
    if let (true, Some(top)) = (echo, shown.logprobs) {
        let tokens = params.n * prompts.iter().map(Vec::len).sum::<usize>();
        if tokens * (top + 1) > MOST_ECHOED {
            let most = MOST_ECHOED / (top + 1);
            let message = format!(
                "`prompt` has {tokens} tokens in all answers, at most {most} are possible with `echo` and \
                 `logprobs` of {top}"
            );
            return Err(ApiError::value("prompt", message));
        }
    }
    if let Some(form) = form {
        let answers = params.n * prompts.len();
        app.constrain(&mut params, &form, answers, "response_format")?;
    }
    Ok(Prepared { params, prompts, shown, model })
}

/// A string, tokens, or an array of either.
pub(super) fn prompts_of(app: &App, value: Value, param: &str, most: usize) -> Result<Vec<Vec<u32>>> {
    let one = |item: Value| match item {
        Value::String(text) => app.encode(&text, true, param),
        Value::Array(ids) => ids.iter().map(|id| token_id(id, app.card(), param)).collect(),
        _ => Err(wrong(param)),
    };
    match value {
        Value::Array(items) if items.is_empty() => Err(wrong(param)),
        Value::Array(items) if items.iter().all(Value::is_number) => Ok(vec![one(Value::Array(items))?]),
        Value::Array(items) if items.len() > most => {
            let n = items.len();
            Err(ApiError::value(param, format!("`{param}` has {n} entries, at most {most} are possible")))
        }
        Value::Array(items) => items.into_iter().map(one).collect(),
        item => Ok(vec![one(item)?]),
    }
}

fn wrong(param: &str) -> ApiError {
    let message = format!("`{param}` must be a string, an array of strings, or an array of token ids");
    ApiError::value(param, message)
}

fn choice(index: usize, text: &str, logprobs: Value, reason: Option<&str>) -> Value {
    json!([{ "index": index, "text": text, "logprobs": logprobs, "finish_reason": reason }])
}

/// `n` are the answers to each prompt.
async fn whole(
    mut answers: Answers,
    head: Head,
    n: usize,
    shown: Shown,
    begin: Vec<Piece>,
    prompt: usize,
) -> Result<Value> {
    let all = answers.collect().await?;
    let reasons = answers.all.iter().map(|answer| answer.reason());
    let mut all: Vec<(Piece, Piece, &str)> = begin
        .into_iter()
        .zip(all)
        .zip(reasons)
        .map(|((begin, piece), reason)| (begin, piece, reason))
        .collect();
    if shown.n < n {
        all.chunks_mut(n).for_each(|some| some.sort_by(|a, b| likelihood(&b.1).total_cmp(&likelihood(&a.1))));
    }
    let best = all.into_iter().enumerate().filter(|(i, _)| i % n < shown.n);
    let choices = best.enumerate().map(|(i, (_, (begin, piece, reason)))| {
        let tokens = [begin.tokens, piece.tokens].concat();
        choice(i, &(begin.text + &piece.text), logprobs(&tokens, &mut 0, shown.logprobs), Some(reason))[0]
            .take()
    });
    let mut object = head.object("text_completion", choices.collect());
    object["usage"] = answers.usage(prompt);
    Ok(object)
}

/// The logarithm of an answer's probability, per token.
fn likelihood(piece: &Piece) -> f32 {
    piece.tokens.iter().map(|token| token.logprob).sum::<f32>() / piece.tokens.len().max(1) as f32
}

async fn streamed(
    out: Emitter,
    mut answers: Answers,
    head: Head,
    params: Params,
    begin: Vec<Piece>,
    prompt: usize,
) -> Result<()> {
    let chunk = |choices: Value| {
        let mut object = head.object("text_completion", choices);
        if params.include_usage {
            object["usage"] = Value::Null;
        }
        object
    };
    for (i, Piece { text, tokens }) in begin.iter().enumerate().filter(|(_, piece)| !piece.text.is_empty()) {
        out.json(&chunk(choice(i, text, logprobs(tokens, &mut 0, params.logprobs), None))).await;
    }
    let mut from: Vec<usize> = begin.iter().map(|piece| characters(&piece.text)).collect();
    // Whose end went with the last of their text.
    let mut told = vec![false; answers.all.len()];
    while let Some((i, piece)) = answers.next().await? {
        let ended = answers.all[i].ended();
        let choice = match piece {
            Some(Piece { text, tokens }) => {
                told[i] = ended.is_some();
                choice(i, &text, logprobs(&tokens, &mut from[i], params.logprobs), ended)
            }
            None if told[i] => continue,
            None => choice(i, "", Value::Null, ended),
        };
        out.json(&chunk(choice)).await;
    }
    if params.include_usage {
        let mut object = chunk(json!([]));
        object["usage"] = answers.usage(prompt);
        out.json(&object).await;
    }
    out.done().await;
    Ok(())
}

fn characters(text: &str) -> usize {
    text.chars().count()
}

/// The older form: parallel arrays. The first token begins at the character `at`, which moves on behind the last.
fn logprobs(tokens: &[Spoken], at: &mut usize, wanted: Option<usize>) -> Value {
    if wanted.is_none() {
        return Value::Null;
    }
    let known = |token: &&Spoken| !token.logprob.is_nan();
    let logprob = |token| Some(token).filter(known).map(|token: &Spoken| finite(token.logprob));
    let top = |token| {
        Some(token).filter(known).map(|token: &Spoken| {
            let mut map: Map<String, Value> =
                token.top.iter().map(|(text, p)| (text.clone(), finite(*p).into())).collect();
            map.entry(token.text.clone()).or_insert(finite(token.logprob).into());
            map
        })
    };
    let mut offset = |token: &Spoken| {
        let start = *at;
        *at += characters(&token.text);
        start
    };
    json!({
        "tokens": tokens.iter().map(|t| &t.text).collect::<Vec<_>>(),
        "token_logprobs": tokens.iter().map(logprob).collect::<Vec<_>>(),
        "top_logprobs": tokens.iter().map(top).collect::<Vec<_>>(),
        "text_offset": tokens.iter().map(&mut offset).collect::<Vec<_>>(),
    })
}
