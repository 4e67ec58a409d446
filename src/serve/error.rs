//! [`ApiError`]: what went wrong, as OpenAI's clients expect it.

use super::engine::Refusal;
use crate::error::Error;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// A status and `{"error": {message, type, param, code}}`.
#[derive(Clone, Debug)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    pub(super) message: String,
    pub(super) param: Option<String>,
    pub(super) code: Option<&'static str>,
    /// Further fields of the object.
    pub(super) extra: Option<(usize, usize)>,
    pub(super) retry_after: Option<u64>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: Option<&'static str>, message: impl ToString) -> Self {
        Self { status, message: message.to_string(), param: None, code, extra: None, retry_after: None }
    }

    /// A request that makes no sense, however often it is sent.
    pub(super) fn bad(message: impl ToString) -> Self {
        Self::new(StatusCode::BAD_REQUEST, None, message)
    }

    /// The value of a field makes no sense.
    pub(super) fn value(param: impl ToString, message: impl ToString) -> Self {
        let param = Some(param.to_string());
        Self { param, code: Some("invalid_value"), ..Self::bad(message) }
    }

    /// A field that this server does not honour.
    pub(super) fn unsupported(param: impl ToString, message: impl ToString) -> Self {
        let param = Some(param.to_string());
        Self { param, code: Some("unsupported_parameter"), ..Self::bad(message) }
    }

    /// A prompt that leaves no room for an answer.
    pub(super) fn context(param: &str, prompt: usize, at_least: bool, context: usize) -> Self {
        let more = if at_least { "at least " } else { "" };
        let message = format!(
            "This model's maximum context length is {context} tokens, but the prompt has {more}{prompt} tokens \
             and an answer needs at least 1."
        );
        Self {
            param: Some(param.to_owned()),
            code: Some("context_length_exceeded"),
            extra: Some((prompt, context)),
            ..Self::bad(message)
        }
    }

    /// A mistake of ours.
    pub(super) fn internal() -> Self {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Self::new(status, Some("internal_error"), "Something is wrong inside the server.")
    }

    pub(super) fn closing() -> Self {
        let error =
            Self::new(StatusCode::SERVICE_UNAVAILABLE, Some("shutting_down"), "The server is stopping.");
        Self { retry_after: Some(5), ..error }
    }

    fn kind(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        }
    }

    pub(super) fn body(&self) -> Value {
        let mut error = json!({
            "message": self.message, "type": self.kind(), "param": self.param, "code": self.code,
        });
        if let Some((prompt, context)) = self.extra {
            error["n_prompt_tokens"] = prompt.into();
            error["n_ctx"] = context.into();
        }
        json!({ "error": error })
    }
}

impl From<Error> for ApiError {
    fn from(e: Error) -> Self {
        if e.is_input() || e.is_unsupported() {
            return Self::bad(e);
        }
        match e.is_memory() {
            true => Self::new(StatusCode::SERVICE_UNAVAILABLE, Some("out_of_memory"), e),
            false => Self::new(StatusCode::INTERNAL_SERVER_ERROR, Some("engine_error"), e),
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Full(after) => {
                let message = "The server is busy and its queue is full. Try again later.";
                let error = Self::new(StatusCode::TOO_MANY_REQUESTS, Some("queue_full"), message);
                Self { retry_after: Some(after.as_secs().max(1)), ..error }
            }
            Refusal::Closed => Self::closing(),
            Refusal::Invalid(e) => Self::bad(e),
            Refusal::Failed(e) => e.into(),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let json = HeaderValue::from_static("application/json");
        let mut response =
            (self.status, [(header::CONTENT_TYPE, json)], self.body().to_string()).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
            headers.insert("x-should-retry", HeaderValue::from_static("true"));
        } else if self.status.is_server_error() {
            // What failed here will fail again: clients need not retry.
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
