//! [`Answer`]: events of the engine become text, up to a stop string.
//!
//! A stop string may begin in one token and end in another, so text that could be its beginning is held
//! back until more is known. Dropping an answer cancels its request.

use super::engine::{Card, Event, Events, Logprobs};
use super::error::ApiError;
use super::metrics::Metrics;
use super::params::Params;
use crate::generate::{FinishReason, certain, first_stop};
use crate::io::{TokenStream, Tokenizer};
use axum::http::StatusCode;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

/// Text that is certain, and the tokens that it began with.
#[derive(Clone, Debug, Default)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) tokens: Vec<Spoken>,
}

/// A token as text, with probabilities. The texts of all tokens together are the answer.
#[derive(Clone, Debug)]
pub(super) struct Spoken {
    pub(super) text: String,
    pub(super) logprob: f32,
    pub(super) top: Vec<(String, f32)>,
    /// Where it begins, in bytes of the answer.
    start: usize,
}

impl Spoken {
    pub(super) fn new(
        text: String,
        logprobs: &Logprobs,
        start: usize,
        tokenizer: &Tokenizer,
    ) -> Result<Self, ApiError> {
        let top = logprobs.top.iter().map(|&(id, p)| Ok((token_text(tokenizer, id)?, p)));
        let top = top.collect::<Result<_, ApiError>>()?;
        Ok(Self { text, logprob: logprobs.chosen, top, start })
    }
}

/// A token's text by itself. Decoders drop a space at the beginning of a text; here it is the token's.
fn token_text(tokenizer: &Tokenizer, id: u32) -> Result<String, ApiError> {
    let text = tokenizer.decode(&[id], false)?;
    let spelt = tokenizer.id_to_token(id).unwrap_or_default();
    Ok(if spelt.starts_with('\u{2581}') && !text.starts_with(' ') { format!(" {text}") } else { text })
}

/// One answer on its way.
#[derive(Debug)]
pub(super) struct Answer {
    events: Events,
    tokenizer: Tokenizer,
    decoder: TokenStream,
    stops: Vec<String>,
    held: String,
    /// Bytes that were handed out.
    shown: usize,
    /// Tokens whose text is held back.
    spoken: VecDeque<Spoken>,
    reason: Option<&'static str>,
    /// The most tokens that it may have.
    most: usize,
    pub(super) tokens: usize,
    pub(super) cached: usize,
    prompt: usize,
    metrics: Arc<Metrics>,
    begun: Instant,
    first: Option<Instant>,
    latest: Option<Instant>,
}

impl Answer {
    pub(super) fn new(
        events: Events,
        card: &Card,
        params: &Params,
        prompt: usize,
        most: usize,
        metrics: &Arc<Metrics>,
    ) -> Self {
        Self {
            events,
            tokenizer: card.tokenizer.clone(),
            decoder: card.tokenizer.stream(!params.show_special),
            stops: params.stop.clone(),
            held: String::new(),
            shown: 0,
            spoken: VecDeque::new(),
            reason: None,
            most,
            tokens: 0,
            cached: 0,
            prompt,
            metrics: metrics.clone(),
            begun: Instant::now(),
            first: None,
            latest: None,
        }
    }

    /// Why it ended, once it has.
    pub(super) fn ended(&self) -> Option<&'static str> {
        self.reason
    }

    /// Why it ended.
    pub(super) fn reason(&self) -> &'static str {
        self.reason.unwrap_or("stop")
    }

    /// What comes next; `None` at the end. May be given up at any time and called again.
    pub(super) async fn next(&mut self) -> Result<Option<Piece>, ApiError> {
        while self.reason.is_none() {
            match self.events.next().await {
                Some(Event::Start { cached }) => {
                    self.cached = cached;
                    Metrics::add(&self.metrics.prompt_tokens, self.prompt);
                    Metrics::add(&self.metrics.cached_tokens, cached);
                }
                Some(Event::Token { id, logprobs }) => {
                    self.count();
                    let text = self.decoder.push(id)?;
                    self.note(&text, logprobs.as_deref())?;
                    self.held += &text;
                }
                Some(Event::End(reason)) => {
                    let text = self.decoder.finish()?;
                    if let Some(last) = self.spoken.back_mut() {
                        last.text += &text;
                    }
                    self.held += &text;
                    self.finish(if reason == FinishReason::Stop { "stop" } else { "length" });
                }
                Some(Event::Failed(e)) => {
                    self.finish("error");
                    return Err(e.into());
                }
                None => {
                    self.finish("error");
                    let status = StatusCode::INTERNAL_SERVER_ERROR;
                    return Err(ApiError::new(
                        status,
                        Some("engine_error"),
                        "The engine gave the answer up.",
                    ));
                }
            }
            if let Some(at) = first_stop(&self.held, &self.stops) {
                self.held.truncate(at);
                if self.reason.is_none() {
                    self.finish("stop");
                }
                self.reason = Some("stop");
            }
            if self.reason.is_none() && self.tokens >= self.most {
                // The end comes right behind the last token, and goes with it.
                continue;
            }
            let piece = self.piece();
            if !piece.text.is_empty() || !piece.tokens.is_empty() {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }

    /// Hands out what is certain.
    fn piece(&mut self) -> Piece {
        let done = self.reason.is_some();
        let length = if done { self.held.len() } else { certain(&self.held, &self.stops) };
        let rest = self.held.split_off(length);
        let text = std::mem::replace(&mut self.held, rest);
        self.shown += length;
        let mut tokens = Vec::new();
        while let Some(token) = self.spoken.front() {
            let end = token.start + token.text.len();
            let out = if done { token.start < self.shown || end == self.shown } else { end <= self.shown };
            if !out {
                break;
            }
            if let Some(mut token) = self.spoken.pop_front() {
                let most = self.shown - token.start;
                if token.text.len() > most && token.text.is_char_boundary(most) {
                    token.text.truncate(most);
                }
                tokens.push(token);
            }
        }
        Piece { text, tokens }
    }

    fn note(&mut self, text: &str, logprobs: Option<&Logprobs>) -> Result<(), ApiError> {
        let Some(logprobs) = logprobs else { return Ok(()) };
        let start = self.shown + self.held.len();
        self.spoken.push_back(Spoken::new(text.to_owned(), logprobs, start, &self.tokenizer)?);
        Ok(())
    }

    fn count(&mut self) {
        self.tokens += 1;
        Metrics::add(&self.metrics.generation_tokens, 1);
        let now = Instant::now();
        match self.latest.replace(now) {
            None => {
                self.first = Some(now);
                self.metrics.first_token.observe(now - self.begun);
            }
            Some(latest) => self.metrics.between_tokens.observe(now - latest),
        }
    }

    fn finish(&mut self, reason: &'static str) {
        self.reason = Some(reason);
        self.metrics.finish(reason);
        self.metrics.whole.observe(self.begun.elapsed());
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if self.reason.is_none() {
            self.metrics.finish("abort");
        }
    }
}

/// Several answers to one request.
#[derive(Debug)]
pub(super) struct Answers {
    pub(super) all: Vec<Answer>,
    /// So many to each prompt, one prompt after the other.
    n: usize,
    /// Those that have not ended.
    open: Vec<usize>,
    turn: usize,
    label: String,
    begun: Instant,
}

impl Answers {
    pub(super) fn new(all: Vec<Answer>, n: usize, label: String) -> Self {
        let open = (0..all.len()).collect();
        Self { all, n, open, turn: 0, label, begun: Instant::now() }
    }

    /// Every answer, whole.
    pub(super) async fn collect(&mut self) -> Result<Vec<Piece>, ApiError> {
        let mut all: Vec<Piece> = self.all.iter().map(|_| Piece::default()).collect();
        while let Some((i, piece)) = self.next().await? {
            if let Some(piece) = piece {
                all[i].text += &piece.text;
                all[i].tokens.extend(piece.tokens);
            }
        }
        Ok(all)
    }

    /// The next piece of any answer, or `None` for one that has ended; `None` when all have.
    pub(super) async fn next(&mut self) -> Result<Option<(usize, Option<Piece>)>, ApiError> {
        if self.open.is_empty() {
            return Ok(None);
        }
        self.turn = self.turn.wrapping_add(1);
        let (index, piece) = poll_fn(|cx| {
            for i in 0..self.open.len() {
                let index = self.open[(self.turn + i) % self.open.len()];
                if let Poll::Ready(piece) = pin!(self.all[index].next()).poll(cx) {
                    return Poll::Ready((index, piece));
                }
            }
            Poll::Pending
        })
        .await;
        let piece = piece?;
        if piece.is_none() {
            self.open.retain(|&i| i != index);
        }
        Ok(Some((index, piece)))
    }

    pub(super) fn usage(&self, prompt: usize) -> serde_json::Value {
        let completion: usize = self.all.iter().map(|a| a.tokens).sum();
        // A prompt counts once, as it is for the first answer to it.
        let cached: usize = self.all.iter().step_by(self.n).map(|a| a.cached).sum();
        serde_json::json!({
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": { "cached_tokens": cached },
        })
    }
}

impl Drop for Answers {
    /// Whatever the end was, it is told.
    fn drop(&mut self) {
        let sum = |of: fn(&Answer) -> usize| self.all.iter().map(of).sum::<usize>();
        let reason = match self.all.iter().find(|a| a.reason.is_none()) {
            Some(_) => "abort",
            None => self.all.first().map_or("stop", Answer::reason),
        };
        let first = self.all.iter().filter_map(|a| a.first).min();
        log::info!(
            target: "unimlx::serve",
            "answer id={} reason={reason} answers={} prompt_tokens={} cached_tokens={} completion_tokens={} \
             first_ms={} ms={}",
            self.label,
            self.all.len(),
            sum(|a| a.prompt),
            sum(|a| a.cached),
            sum(|a| a.tokens),
            first.map_or("-".to_owned(), |t| t.saturating_duration_since(self.begun).as_millis().to_string()),
            self.begun.elapsed().as_millis(),
        );
    }
}
