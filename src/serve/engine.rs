//! [`Engine`]: token ids in, a stream of events out. This is all that HTTP knows of what generates.
//!
//! Dropping the stream cancels the request. An engine never waits for a reader: one that falls
//! [`BACKLOG`] events behind is cancelled.

use crate::error::Error;
use crate::generate::{FinishReason, GenerateOptions, LogitsHook};
use crate::io::{ChatTemplate, Tokenizer};
use futures_core::Stream;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;

/// Events that may wait for a reader.
pub const BACKLOG: usize = 4096;

/// What generates: a model behind a queue, or [`MockEngine`](super::MockEngine).
pub trait Engine: Send + Sync + 'static {
    /// What there is to know of the model.
    fn card(&self) -> &Card;

    /// Puts a request into the queue. Called inside a tokio runtime.
    ///
    /// # Errors
    /// The queue is full, the engine has stopped, or it cannot do what the request asks.
    fn submit(&self, request: Request) -> Result<Events, Refusal>;

    /// How busy it is now.
    fn load(&self) -> Load;

    /// Why it answers nothing any more, if it has failed for good: its server is not ready then.
    fn failure(&self) -> Option<Error> {
        None
    }

    /// The hidden states of texts, pooled to one vector each; `None` if this engine has none to give. Dropping
    /// the future cancels the work.
    fn embed(&self, inputs: Vec<Vec<u32>>, pooling: Pooling) -> Option<Embeddings> {
        let _ = (inputs, pooling);
        None
    }

    /// How probable each token of some texts is after those before it, and the `top` likeliest; `None` if this
    /// engine cannot say. Dropping the future cancels the work.
    fn score(&self, inputs: Vec<Vec<u32>>, top: usize) -> Option<Scores> {
        let _ = (inputs, top);
        None
    }
}

/// What [`Engine::score`] promises, for each token but the first of each input.
pub type Scores = Pin<Box<dyn Future<Output = Result<Vec<Vec<Logprobs>>, Refusal>> + Send>>;

/// The vectors that [`Engine::embed`] promises, one per input.
pub type Embeddings = Pin<Box<dyn Future<Output = Result<Vec<Vec<f32>>, Refusal>> + Send>>;

/// How the hidden states of a text's tokens become one vector, which then gets length 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The last token's.
    Last,
}

/// What HTTP must know of a model.
#[derive(Clone, Debug)]
pub struct Card {
    /// What requests call it; the first is what answers call it.
    pub names: Vec<String>,
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// Conversations to text; without one there are no chats.
    pub template: Option<ChatTemplate>,
    /// The most tokens of prompt and answer together.
    pub context_length: usize,
    /// Ids are below this.
    pub vocab_size: usize,
    /// How to sample where a request says nothing.
    pub defaults: GenerateOptions,
}

impl Card {
    /// What answers call the model.
    pub fn name(&self) -> &str {
        self.names.first().map_or("model", String::as_str)
    }
}

/// One answer that is wanted.
#[derive(Default)]
pub struct Request {
    /// The prompt.
    pub tokens: Vec<u32>,
    /// How to choose tokens and when to stop. Stop strings are not the engine's business: whoever reads the
    /// stream sees text, and drops it.
    pub options: GenerateOptions,
    /// What to add to the logits of some tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// What to take from the logits of tokens that the answer contains.
    pub presence_penalty: f32,
    /// What to take from them for each time it contains them.
    pub frequency_penalty: f32,
    /// `Some(k)`: report the probability of each token and of the `k` likeliest.
    pub logprobs: Option<usize>,
    /// The client whose request it is: clients that wait take turns.
    pub client: u64,
    /// Takes part in the choice of tokens, before all of the above: a grammar's masks.
    pub hook: Option<Box<dyn LogitsHook>>,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Request({} tokens, {:?})", self.tokens.len(), self.options)
    }
}

/// What happens to a request, in order: `Start`, tokens, `End`; or `Failed` at any time.
#[derive(Clone, Debug)]
pub enum Event {
    /// It has left the queue and its prompt has been read.
    Start {
        /// Tokens of the prompt that were in the cache already.
        cached: usize,
    },
    /// The next token of the answer.
    Token {
        /// Its id.
        id: u32,
        /// Its probabilities, if they were asked for.
        logprobs: Option<Box<Logprobs>>,
    },
    /// The answer has ended.
    End(FinishReason),
    /// There will be no (more) answer.
    Failed(Error),
}

/// Natural logarithms of probabilities, from the model's own logits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Logprobs {
    /// Of the token that was chosen.
    pub chosen: f32,
    /// The likeliest tokens, best first.
    pub top: Vec<(u32, f32)>,
}

/// Why a request was not accepted.
#[derive(Clone, Debug)]
pub enum Refusal {
    /// The queue is full; try again after this time.
    Full(Duration),
    /// The engine is going away.
    Closed,
    /// It can never be done.
    Invalid(Error),
    /// The engine failed.
    Failed(Error),
}

/// How busy an engine is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Requests that are being answered.
    pub running: usize,
    /// Requests in the queue.
    pub waiting: usize,
    /// Pages of the cache that running requests have, each counted once.
    pub cache_used: usize,
    /// Pages that the cache can have.
    pub cache_total: usize,
    /// How often answers had to wait, and be read again, because others needed their pages.
    pub preempted: usize,
}

impl Load {
    /// From 0 to 1.
    pub fn cache_usage(&self) -> f64 {
        self.cache_used as f64 / self.cache_total.max(1) as f64
    }
}

/// The stream of a request's events. Dropping it cancels the request.
#[derive(Debug)]
pub struct Events(mpsc::Receiver<Event>);

impl Events {
    /// The next event; `None` after the last.
    pub async fn next(&mut self) -> Option<Event> {
        self.0.recv().await
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.0.poll_recv(cx)
    }
}

/// The engine's end of [`Events`].
#[derive(Clone, Debug)]
pub struct Sender(mpsc::Sender<Event>);

impl Sender {
    /// Both ends of a new stream.
    pub fn new() -> (Self, Events) {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        (Self(sender), Events(receiver))
    }

    /// Hands an event over; `false` if nobody wants it, or the reader is too far behind.
    #[must_use]
    pub fn send(&self, event: Event) -> bool {
        self.0.try_send(event).is_ok()
    }

    /// Whether the reader has gone.
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Waits until the reader has gone.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}
