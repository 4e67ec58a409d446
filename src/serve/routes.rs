//! The table of routes.

use super::app::App;
use super::{chat, completions, embeddings, guard, kept, plain, responses};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use std::sync::Arc;

pub(super) fn router(app: Arc<App>) -> Router {
    let routes = Router::new()
        .route("/", get(plain::page))
        .route("/v1/chat/completions", post(chat::chat))
        .route("/v1/completions", post(completions::completions))
        .route("/v1/responses", post(responses::responses))
        .route("/v1/responses/{id}", get(kept::get).delete(kept::delete))
        .route("/v1/embeddings", post(embeddings::embeddings))
        .route("/v1/models", get(plain::models))
        .route("/v1/models/{*name}", get(plain::one_model))
        .route("/tokenize", post(plain::tokenize))
        .route("/detokenize", post(plain::detokenize))
        .route("/health", get(plain::health))
        .route("/ready", get(plain::ready))
        .route("/metrics", get(plain::metrics))
        .route("/version", get(plain::version))
        .fallback(plain::nothing_here)
        .method_not_allowed_fallback(plain::wrong_method)
        // Bodies are limited where they are read, with an error of our own.
        .layer(DefaultBodyLimit::disable());
    routes.layer(from_fn_with_state(app.clone(), guard::guard)).with_state(app)
}
