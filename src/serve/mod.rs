//! The OpenAI API over an [`Engine`]: inside an application, or on a port.
//!
//! [`router`] is an axum `Router` for use without a port or beside an application's own routes; [`Server`]
//! puts it on a socket with the limits that sockets need. [`ModelEngine`] runs a model for several requests at
//! once; [`MockEngine`] follows a script, for tests.
//!
//! A parameter of a request is honoured or refused, never ignored. Nothing of a prompt or an answer is
//! logged; nothing is kept but responses that are not `store: false`, in memory and for their caller alone.

// From the socket to the model and back:
// - `server`, `guard`, `routes`: connections and their limits; ids, hosts, keys and CORS; the table of routes.
// - `chat`, `completions`, `responses`, `embeddings`, `plain`: the handlers.
// - `app`: what they share. `fields`, `params`, `messages`, `form`, `error`: a body becomes prompts and options, or is
//   refused.
// - `grammar` (with `schema`, `schema_size`, `numbers`), `tools`, `tool_prompt`, `hook`: what an answer must look like.
// - `engine`: what generates, as HTTP sees it. `scheduler` and `aside` run a model, `mock` a script.
// - `answer`, `parts` (with `reasoning`, `tool_stream`, `json`), `output`, `sse`: tokens become what a client gets.
// - `kept`, `metrics`, `options`: responses that are kept; what is counted; who may ask, and how much.
mod answer;
mod app;
mod aside;
mod chat;
mod completions;
mod embeddings;
mod engine;
mod error;
mod fields;
mod form;
pub mod grammar;
mod guard;
mod hook;
mod json;
mod kept;
mod messages;
mod metrics;
mod mock;
mod numbers;
mod options;
mod output;
mod params;
mod parts;
mod plain;
pub mod reasoning;
mod responses;
mod routes;
mod scheduler;
mod schema;
mod schema_size;
mod server;
mod sse;
mod tool_prompt;
mod tool_stream;
pub mod tools;

pub use engine::{
    BACKLOG, Card, Embeddings, Engine, Event, Events, Load, Logprobs, Pooling, Refusal, Request, Scores,
    Sender,
};
pub use mock::{MockEngine, Script};
pub use options::Options;
pub use scheduler::{EngineOptions, ModelEngine};
pub use server::{Server, StopSignals};

use std::sync::Arc;

/// The API as a router: for requests made inside the process, or beside an application's own routes.
///
/// ```
/// use tower::ServiceExt;
/// use unimlx::serve::{MockEngine, Script, router};
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
/// # runtime.block_on(async {
/// let engine = MockEngine::new(Script::default()).unwrap();
/// let request = axum::http::Request::get("/v1/models").body(axum::body::Body::empty()).unwrap();
/// let response = router(engine).oneshot(request).await.unwrap();
/// assert_eq!(response.status(), 200);
/// # });
/// ```
pub fn router(engine: impl Engine) -> axum::Router {
    router_with(Arc::new(engine), Options::default())
}

/// [`router`] with keys, names and limits. Limits of sockets are those of [`Server`] alone.
pub fn router_with(engine: Arc<dyn Engine>, options: Options) -> axum::Router {
    routes::router(app::App::new(engine, options))
}
