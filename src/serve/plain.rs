//! Routes that generate nothing: models, tokens, health, metrics.

use super::app::{App, Phase};
use super::error::ApiError;
use super::fields::Fields;
use super::params::{model, no_such_model, token_id};
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::sync::Arc;

type Result<T> = std::result::Result<T, ApiError>;

fn object(app: &App, name: &str) -> Value {
    json!({
        "id": name, "object": "model", "created": app.started, "owned_by": "unimlx",
        "max_model_len": app.card().context_length,
    })
}

pub(super) async fn models(State(app): State<Arc<App>>) -> Json<Value> {
    let data: Vec<Value> = app.card().names.iter().map(|name| object(&app, name)).collect();
    Json(json!({ "object": "list", "data": data }))
}

/// A model's name may have slashes.
pub(super) async fn one_model(State(app): State<Arc<App>>, Path(name): Path<String>) -> Result<Json<Value>> {
    if app.card().names.contains(&name) || app.options.any_model {
        return Ok(Json(object(&app, &name)));
    }
    Err(no_such_model(&name))
}

pub(super) async fn tokenize(State(app): State<Arc<App>>, request: Request<Body>) -> Result<Json<Value>> {
    let work = app.prepare(request, |app, body| {
        let mut fields = Fields::new(body, "")?;
        let (text, prompt) = (fields.string("content")?, fields.string("prompt")?);
        let text = fields.required("prompt", prompt.or(text))?;
        let special = fields.bool("add_special_tokens")?;
        let special = fields.bool("add_special")?.or(special).unwrap_or(true);
        optional_model(&mut fields, app)?;
        fields.finish()?;
        let tokens = app.card().tokenizer.encode(&text, special)?;
        let n = tokens.len();
        Ok(json!({ "tokens": tokens, "count": n, "max_model_len": app.card().context_length }))
    });
    Ok(Json(work.await?))
}

pub(super) async fn detokenize(State(app): State<Arc<App>>, request: Request<Body>) -> Result<Json<Value>> {
    let work = app.prepare(request, |app, body| {
        let mut fields = Fields::new(body, "")?;
        let tokens = fields.array("tokens")?;
        let tokens = fields.required("tokens", tokens)?;
        optional_model(&mut fields, app)?;
        fields.finish()?;
        let tokens: Vec<u32> =
            tokens.iter().map(|id| token_id(id, app.card(), "tokens")).collect::<Result<_>>()?;
        let text = app.card().tokenizer.decode(&tokens, false)?;
        Ok(json!({ "prompt": text, "content": text }))
    });
    Ok(Json(work.await?))
}

fn optional_model(fields: &mut Fields, app: &App) -> Result<()> {
    if fields.has("model") {
        model(fields, app.card(), app.options.any_model)?;
    }
    Ok(())
}

/// A page to chat from: one file that loads nothing else.
pub(super) async fn page() -> Response {
    const PAGE: &str = include_str!("page.html");
    const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; \
                          connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::CACHE_CONTROL, "no-cache"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, PAGE).into_response()
}

/// The process answers.
pub(super) async fn health() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

/// It takes work.
pub(super) async fn ready(State(app): State<Arc<App>>) -> Response {
    let status = match *app.phase.borrow() {
        Phase::Serving if app.engine.failure().is_some() => "failed",
        Phase::Serving => return Json(json!({ "status": "ready" })).into_response(),
        _ => "draining",
    };
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": status }))).into_response()
}

pub(super) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let text = app.metrics.text(&*app.engine);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

pub(super) async fn version() -> Json<Value> {
    Json(json!({ "version": env!("CARGO_PKG_VERSION") }))
}

pub(super) async fn nothing_here(request: Request<Body>) -> ApiError {
    let path: String = request.uri().path().chars().take(128).collect();
    let message = format!("Nothing is at {} {path}.", request.method());
    ApiError::new(StatusCode::NOT_FOUND, Some("unknown_url"), message)
}

pub(super) async fn wrong_method(request: Request<Body>) -> ApiError {
    let path: String = request.uri().path().chars().take(128).collect();
    let message = format!("{} is not possible at {path}.", request.method());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, Some("method_not_allowed"), message)
}
