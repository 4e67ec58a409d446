//! What all generating endpoints have in common: [`Params`], honoured or refused.

use super::engine::{Card, Request};
use super::error::ApiError;
use super::fields::{Fields, kind};
use super::grammar::Matcher;
use crate::generate::{GenerateOptions, LogitsHook};
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

type Result<T> = std::result::Result<T, ApiError>;

/// Answers to one request at most: each is a request of its own to the engine.
pub(super) const MOST_ANSWERS: u64 = 128;
/// Stop strings, and characters of one.
const MOST_STOPS: (usize, usize) = (16, 256);
/// Entries of `logit_bias`.
const MOST_BIASES: usize = 1024;
/// `top_logprobs`.
pub(super) const MOST_LOGPROBS: u64 = 20;

/// How to generate, as a request says it.
#[derive(Debug)]
pub(super) struct Params {
    pub(super) options: GenerateOptions,
    pub(super) stop: Vec<String>,
    pub(super) n: usize,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
    pub(super) logit_bias: Vec<(u32, f32)>,
    pub(super) presence_penalty: f32,
    pub(super) frequency_penalty: f32,
    /// `Some(k)`: probabilities of tokens and of the `k` likeliest.
    pub(super) logprobs: Option<usize>,
    /// One for each answer that must have a form.
    pub(super) matchers: Vec<Matcher>,
    /// Special tokens are part of the text.
    pub(super) show_special: bool,
}

impl Params {
    /// Takes the fields that chats and completions share.
    pub(super) fn take(fields: &mut Fields, card: &Card) -> Result<Self> {
        let plain = card.defaults.clone();
        let seed = fields.raw("seed");
        let options = GenerateOptions {
            max_tokens: fields.count("max_tokens", 0, u64::from(u32::MAX))?,
            temperature: fields.number("temperature", 0.0, 2.0)?.unwrap_or(plain.temperature),
            top_k: top_k(fields)?.unwrap_or(plain.top_k),
            top_p: fields.number("top_p", 0.0, 1.0)?.unwrap_or(plain.top_p).max(f32::MIN_POSITIVE),
            min_p: fields.number("min_p", 0.0, 1.0)?.unwrap_or(plain.min_p),
            repetition_penalty: fields
                .number("repetition_penalty", 0.01, 100.0)?
                .unwrap_or(plain.repetition_penalty),
            seed: match seed {
                None => from_clock(),
                Some(seed) => seed.as_i64().map(|s| s as u64).or(seed.as_u64()).ok_or_else(|| {
                    ApiError::value("seed", "`seed` must be a whole number of at most 64 bits")
                })?,
            },
            stop_ids: stop_ids(fields, card)?,
            ignore_eos: fields.bool("ignore_eos")?.unwrap_or(false),
            ..plain
        };
        let stream = fields.bool("stream")?.unwrap_or(false);
        let params = Self {
            options,
            stop: stops(fields)?,
            n: fields.count("n", 1, MOST_ANSWERS)?.unwrap_or(1),
            stream,
            include_usage: include_usage(fields, stream)?,
            logit_bias: logit_bias(fields, card)?,
            presence_penalty: fields.number("presence_penalty", -2.0, 2.0)?.unwrap_or(0.0),
            frequency_penalty: fields.number("frequency_penalty", -2.0, 2.0)?.unwrap_or(0.0),
            logprobs: None,
            matchers: Vec::new(),
            show_special: false,
        };
        for field in ["user", "safety_identifier", "prompt_cache_key"] {
            fields.string(field)?;
        }
        fields.neutral("prompt_cache_retention", &[json!("in_memory"), json!("in-memory"), json!("24h")])?;
        fields.neutral("service_tier", &[json!("auto"), json!("default")])?;
        Ok(params)
    }

    /// The engine's request for the answer `index` to a prompt; it takes a matcher along.
    pub(super) fn request(&mut self, tokens: Vec<u32>, index: usize) -> Request {
        let mut options = self.options.clone();
        options.seed = options.seed.wrapping_add(index as u64);
        Request {
            tokens,
            options,
            logit_bias: self.logit_bias.clone(),
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            logprobs: self.logprobs,
            client: 0,
            hook: self.matchers.pop().map(|matcher| Box::new(matcher) as Box<dyn LogitsHook>),
        }
    }
}

/// Clients that want none of it say -1.
fn top_k(fields: &mut Fields) -> Result<Option<usize>> {
    match fields.raw("top_k") {
        None => Ok(None),
        Some(k) => match k.as_i64() {
            Some(-1) => Ok(Some(0)),
            Some(k) if (0..=i64::from(u32::MAX)).contains(&k) => Ok(Some(k as usize)),
            _ => {
                Err(ApiError::value("top_k", "`top_k` must be a whole number of at least 0, or -1 for none"))
            }
        },
    }
}

fn from_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
}

fn stops(fields: &mut Fields) -> Result<Vec<String>> {
    let (count, chars) = MOST_STOPS;
    let texts = match fields.raw("stop") {
        None => return Ok(Vec::new()),
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(items)) if items.len() <= count => items
            .into_iter()
            .enumerate()
            .map(|(i, item)| match item {
                Value::String(text) => Ok(text),
                other => Err(ApiError::value(
                    "stop",
                    format!("`stop[{i}]` must be a string, not {}", kind(&other)),
                )),
            })
            .collect::<Result<_>>()?,
        Some(Value::Array(items)) => {
            let n = items.len();
            return Err(ApiError::value(
                "stop",
                format!("`stop` has {n} texts, at most {count} are possible"),
            ));
        }
        Some(other) => {
            let kind = kind(&other);
            return Err(ApiError::value("stop", format!("`stop` must be a string or an array, not {kind}")));
        }
    };
    if texts.iter().any(|t| t.is_empty() || t.chars().nth(chars).is_some()) {
        let message = format!("texts of `stop` must have from 1 to {chars} characters");
        return Err(ApiError::value("stop", message));
    }
    Ok(texts)
}

fn stop_ids(fields: &mut Fields, card: &Card) -> Result<Vec<u32>> {
    let Some(items) = fields.array("stop_token_ids")? else { return Ok(Vec::new()) };
    if items.len() > 64 {
        return Err(ApiError::value("stop_token_ids", "`stop_token_ids` can have at most 64 ids"));
    }
    items.iter().map(|item| token_id(item, card, "stop_token_ids")).collect()
}

/// A token id of the vocabulary.
pub(super) fn token_id(item: &Value, card: &Card, param: &str) -> Result<u32> {
    let id = item.as_u64().filter(|&id| id < card.vocab_size as u64);
    id.map(|id| id as u32).ok_or_else(|| {
        let most = card.vocab_size.saturating_sub(1);
        ApiError::value(param, format!("`{param}` must hold token ids from 0 to {most}"))
    })
}

fn include_usage(fields: &mut Fields, stream: bool) -> Result<bool> {
    let Some(options) = fields.raw("stream_options") else { return Ok(false) };
    if !stream {
        let message = "`stream_options` is only possible with `stream: true`";
        return Err(ApiError::value("stream_options", message));
    }
    let mut options = Fields::new(options, "stream_options")?;
    let wanted = options.bool("include_usage")?.unwrap_or(false);
    for field in ["include_obfuscation", "continuous_usage_stats"] {
        options.neutral(field, &[json!(false)])?;
    }
    options.finish()?;
    Ok(wanted)
}

fn logit_bias(fields: &mut Fields, card: &Card) -> Result<Vec<(u32, f32)>> {
    let Some(map) = fields.object("logit_bias")? else { return Ok(Vec::new()) };
    if map.len() > MOST_BIASES {
        let n = map.len();
        let message = format!("`logit_bias` has {n} entries, at most {MOST_BIASES} are possible");
        return Err(ApiError::value("logit_bias", message));
    }
    map.iter()
        .map(|(id, bias)| {
            let id = id.parse::<u32>().ok().filter(|&id| (id as usize) < card.vocab_size);
            let bias = bias.as_f64().filter(|b| (-100.0..=100.0).contains(b));
            let message = "`logit_bias` must map token ids of the vocabulary to numbers from -100 to 100";
            id.zip(bias.map(|b| b as f32)).ok_or_else(|| ApiError::value("logit_bias", message))
        })
        .collect()
}

/// The model that a request names, checked; requests that name none get the only one.
pub(super) fn model(fields: &mut Fields, card: &Card, any: bool) -> Result<String> {
    let name = fields.string("model")?;
    let name = fields.required("model", name)?;
    if card.names.contains(&name) {
        return Ok(name);
    }
    if any {
        return Ok(card.name().to_owned());
    }
    Err(no_such_model(&name))
}

pub(super) fn no_such_model(name: &str) -> ApiError {
    let name: String = name.chars().take(128).collect();
    let error = ApiError::new(
        axum::http::StatusCode::NOT_FOUND,
        Some("model_not_found"),
        format!("The model `{name}` does not exist here; GET /v1/models lists what does."),
    );
    ApiError { param: Some("model".to_owned()), ..error }
}
