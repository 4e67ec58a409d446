//! [`App`]: what all handlers share, and how a request's body becomes work for the engine.

use super::answer::{Answer, Answers};
use super::engine::{Card, Engine, Refusal};
use super::error::ApiError;
use super::grammar::{Constraint, Grammars};
use super::kept::Kept;
use super::metrics::Metrics;
use super::options::Options;
use super::params::Params;
use super::reasoning::has_reasoning;
use super::tools::ToolFormat;
use crate::error::Result as Outcome;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode, header};
use serde_json::Value;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::{Semaphore, watch};

/// How far a shutdown has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Serving,
    /// No new work; what runs may finish.
    Draining,
    /// What still runs is cut off.
    Ending,
}

/// What a model's chat template knows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Style {
    /// How it writes calls of tools, if it has a form for them that is known here.
    pub(super) tools: Option<ToolFormat>,
    pub(super) reasoning: bool,
}

/// Threads that parse, render and tokenize.
const PREPARING: usize = 4;

/// KiB that all bodies above [`SMALL`] may have together; those below always have room.
const BODIES: usize = 256 << 10;
const SMALL: usize = 64 << 10;

/// Characters of an id.
pub(super) const ID: usize = 32;

pub(super) struct App {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) options: Options,
    pub(super) metrics: Arc<Metrics>,
    pub(super) phase: watch::Sender<Phase>,
    pub(super) started: u64,
    preparing: Arc<Semaphore>,
    /// KiB of large bodies.
    bodies: Arc<Semaphore>,
    ids: AtomicU64,
    /// Makes ids that nobody can guess.
    secret: RandomState,
    pub(super) kept: Kept,
    grammars: OnceLock<Outcome<Grammars>>,
    style: OnceLock<Style>,
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "App({}, {:?})", self.card().name(), *self.phase.borrow())
    }
}

impl App {
    pub(super) fn new(engine: Arc<dyn Engine>, options: Options) -> Arc<Self> {
        Arc::new(Self {
            engine,
            kept: Kept::new(options.kept_responses),
            options,
            metrics: Arc::default(),
            phase: watch::Sender::new(Phase::Serving),
            started: now(),
            preparing: Arc::new(Semaphore::new(PREPARING)),
            bodies: Arc::new(Semaphore::new(BODIES)),
            ids: AtomicU64::new(0),
            secret: RandomState::new(),
            grammars: OnceLock::new(),
            style: OnceLock::new(),
        })
    }

    pub(super) fn card(&self) -> &Card {
        self.engine.card()
    }

    /// What the chat template knows; found out when it is first asked.
    pub(super) fn style(&self) -> Style {
        *self.style.get_or_init(|| match &self.card().template {
            Some(template) => Style { tools: ToolFormat::of(template), reasoning: has_reasoning(template) },
            None => Style::default(),
        })
    }

    /// Whether a text is a special token, which decoders leave out.
    pub(super) fn hides(&self, text: &str) -> bool {
        let tokenizer = &self.card().tokenizer;
        let ids = tokenizer.encode(text, false).unwrap_or_default();
        ids.len() == 1 && tokenizer.decode(&ids, true).is_ok_and(|shown| shown.is_empty())
    }

    /// Gives each of `answers` answers a matcher that holds it to a form.
    pub(super) fn constrain(
        &self,
        params: &mut Params,
        form: &Constraint,
        answers: usize,
        param: &str,
    ) -> Result<(), ApiError> {
        let wrong = |e| ApiError::value(param, e);
        let grammars = self.grammars().map_err(wrong)?;
        let matcher = grammars.matcher(form).map_err(wrong)?;
        params.matchers = (1..answers).map(|_| matcher.another()).collect();
        params.matchers.push(matcher);
        Ok(())
    }

    /// What turns a form into a matcher; made when it is first wanted.
    fn grammars(&self) -> Outcome<&Grammars> {
        let card = self.card();
        let made = self.grammars.get_or_init(|| Grammars::new(&card.tokenizer, card.vocab_size));
        made.as_ref().map_err(Clone::clone)
    }

    /// A name for a request or an answer, different from all others and not to be guessed.
    pub(super) fn id(&self, prefix: &str) -> String {
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
        let count = self.ids.fetch_add(1, Ordering::Relaxed);
        format!("{prefix}{nanos:016x}{:016x}", self.secret.hash_one(count))
    }

    /// Reads a JSON body and makes something of it, away from the threads that serve sockets.
    pub(super) async fn prepare<T: Send + 'static>(
        self: &Arc<Self>,
        request: Request<Body>,
        make: impl FnOnce(&App, Value) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        if *self.phase.borrow() != Phase::Serving {
            return Err(ApiError::closing());
        }
        check_type(request.headers())?;
        let most = self.options.body_limit;
        let too_large = || {
            let message = format!("The body has more than {most} bytes.");
            ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, Some("body_too_large"), message)
        };
        let length =
            request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
        if length.is_some_and(|n: usize| n > most) {
            return Err(too_large());
        }
        let room = length.unwrap_or(most);
        let room = if room > SMALL { (room >> 10).min(BODIES) } else { 0 };
        let body = async {
            let room = self.bodies.clone().acquire_many_owned(room as u32).await;
            (room, axum::body::to_bytes(request.into_body(), most).await)
        };
        let (room, body) = tokio::time::timeout(self.options.body_timeout, body).await.map_err(|_| {
            ApiError::new(StatusCode::REQUEST_TIMEOUT, Some("body_timeout"), "The body did not come in time.")
        })?;
        let body = body.map_err(|e| {
            let mut cause: Option<&dyn std::error::Error> = Some(&e);
            let mut limited = false;
            while let Some(e) = cause {
                limited |= e.to_string().contains("length limit");
                cause = e.source();
            }
            if limited { too_large() } else { ApiError::bad("The body could not be read.") }
        })?;
        let turn = self.preparing.clone().acquire_owned().await.map_err(|_| ApiError::closing())?;
        let app = self.clone();
        let work = move || {
            // The work goes on when its client goes away, and keeps what it holds until it is done.
            let _held = (room, turn);
            let value = serde_json::from_slice(&body).map_err(|e| {
                let error = ApiError::bad(format!("The body is not valid JSON: {e}"));
                ApiError { code: Some("invalid_json"), ..error }
            })?;
            make(&app, value)
        };
        blocking(work).await
    }

    /// Tokens of a prompt that fits.
    pub(super) fn encode(&self, text: &str, special: bool, param: &str) -> Result<Vec<u32>, ApiError> {
        let card = self.card();
        let (tokens, all) = card.tokenizer.encode_within(text, special, card.context_length)?;
        if !all {
            return Err(ApiError::context(param, tokens.len(), true, card.context_length));
        }
        self.fits(&tokens, param)?;
        Ok(tokens)
    }

    /// Refuses a prompt that leaves no room for an answer, or has no tokens to begin from.
    pub(super) fn fits(&self, tokens: &[u32], param: &str) -> Result<(), ApiError> {
        let context = self.card().context_length;
        if tokens.len() >= context {
            return Err(ApiError::context(param, tokens.len(), false, context));
        }
        if tokens.is_empty() {
            return Err(ApiError::value(
                param,
                format!("`{param}` is empty: there is nothing to begin from"),
            ));
        }
        Ok(())
    }

    /// Submits `n` answers to each of some prompts.
    pub(super) fn submit(
        &self,
        prompts: &[Vec<u32>],
        params: &mut Params,
        caller: Caller,
    ) -> Result<Answers, ApiError> {
        let mut all = Vec::new();
        for prompt in prompts {
            for i in 0..params.n {
                let mut request = params.request(prompt.clone(), i);
                request.client = caller.client;
                // An answer ends where the context does.
                let room = self.card().context_length.saturating_sub(prompt.len());
                let most = request.options.max_tokens.map_or(room, |most| most.min(room));
                request.options.max_tokens = Some(most);
                let events = self.engine.submit(request).map_err(|refusal| {
                    if matches!(refusal, Refusal::Full(_)) {
                        Metrics::add(&self.metrics.refused, 1);
                    }
                    ApiError::from(refusal)
                })?;
                all.push(Answer::new(events, self.card(), params, prompt.len(), most, &self.metrics));
            }
        }
        Ok(Answers::new(all, params.n, caller.label))
    }

    /// Waits for work that is not streamed, unless the server ends first.
    pub(super) async fn until_end<T>(
        &self,
        work: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        let mut phase = self.phase.subscribe();
        tokio::select! {
            outcome = work => outcome,
            _ = phase.wait_for(|p| *p == Phase::Ending) => Err(ApiError::closing()),
        }
    }
}

/// Does work that takes a while away from the threads that serve sockets.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| Err(if e.is_panic() { ApiError::internal() } else { ApiError::closing() }))
}

/// Which client asks, and what the log calls the request.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    label: String,
    client: u64,
    /// Stands for the key alone.
    pub(super) key: u64,
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct Peer(pub(super) IpAddr);

impl Caller {
    /// By its key, and its address as far as that is known.
    pub(super) fn of(request: &Request<Body>) -> Self {
        let header = |name: &str| request.headers().get(name);
        let id = header("x-request-id").and_then(|id| id.to_str().ok());
        let mut hasher = DefaultHasher::new();
        (header("authorization"), header("x-api-key")).hash(&mut hasher);
        let key = hasher.finish();
        request.extensions().get::<Peer>().hash(&mut hasher);
        Self { label: id.unwrap_or("-").to_owned(), client: hasher.finish(), key }
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn check_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let refuse = |message: &str| {
        Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, Some("unsupported_media_type"), message))
    };
    let kind = headers.get(header::CONTENT_TYPE).map(|v| v.to_str().unwrap_or("").to_ascii_lowercase());
    if kind.is_some_and(|k| !k.trim_start().starts_with("application/json")) {
        return refuse("The body must be JSON: send Content-Type: application/json.");
    }
    let encoding = headers.get(header::CONTENT_ENCODING).map(|v| v.as_bytes().to_ascii_lowercase());
    if encoding.is_some_and(|e| e != b"identity") {
        return refuse("Compressed bodies are not supported.");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::fields::Fields;
    use crate::serve::{MockEngine, Script};
    use std::time::{Duration, Instant};

    fn app() -> Arc<App> {
        App::new(Arc::new(MockEngine::new(Script::default()).unwrap()), Options::default())
    }

    #[test]
    fn a_form_is_compiled_once_for_all_answers() {
        let app = app();
        let properties = (0..200).map(|i| (format!("key_{i}"), serde_json::json!({ "type": "integer" })));
        let properties: serde_json::Map<_, _> = properties.collect();
        let schema = serde_json::json!({ "type": "object", "properties": properties });
        let form = Constraint::json_schema(&schema).unwrap();
        let matchers = |n: usize| {
            let mut fields = Fields::new(serde_json::json!({}), "").unwrap();
            let mut params = Params::take(&mut fields, app.card()).unwrap();
            let begin = Instant::now();
            app.constrain(&mut params, &form, n, "x").unwrap();
            assert_eq!(params.matchers.len(), n);
            (params.matchers, begin.elapsed())
        };
        matchers(1);
        // Other tests take time from either.
        let shared = (0..20).any(|_| matchers(64).1 < 16 * matchers(1).1);
        assert!(shared, "64 answers take 16 times as long as one, or longer");
        let mut all = matchers(64).0;
        // Each goes its own way.
        for (i, matcher) in all.iter_mut().enumerate() {
            for byte in ["{\"key_1\"", "{\"key_2\"", "{}"][i % 3].bytes() {
                matcher.accept(byte.into()).unwrap();
            }
        }
        let ends: Vec<bool> = all.iter_mut().map(|matcher| matcher.may_end().unwrap()).collect();
        assert!(ends.iter().enumerate().all(|(i, ends)| *ends == (i % 3 == 2)), "{ends:?}");
    }

    #[tokio::test]
    async fn who_leaves_keeps_its_place_until_the_work_is_done() {
        let app = app();
        let free = || (app.preparing.available_permits(), app.bodies.available_permits());
        let all = free();
        let (begun, begin) = tokio::sync::oneshot::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let request = Request::post("/").body(Body::from(" ".repeat(2 * SMALL) + "{}")).unwrap();
        let work = app.prepare(request, move |_, _| {
            let _ = begun.send(());
            let _ = ended.recv();
            Ok(())
        });
        tokio::select! {
            _ = work => panic!("the work is not done"),
            _ = begin => {}
        }
        // The caller has gone now.
        assert!(free().0 == all.0 - 1 && free().1 < all.1, "{:?} of {all:?}", free());
        end.send(()).unwrap();
        let free_again = async {
            while free() != all {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), free_again).await.unwrap();
    }
}
