//! What stands before every route: a request id, checks of `Host` and `Origin`, keys, CORS, a log line; and what
//! catches a panic behind it.

use super::app::App;
use super::error::ApiError;
use super::plain;
use axum::body::Body;
use axum::extract::{MatchedPath, State};
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;
use subtle::{Choice, ConstantTimeEq};

/// Bytes of an API key at most.
const MOST_KEY: usize = 256;

pub(super) async fn guard(State(app): State<Arc<App>>, mut request: Request<Body>, next: Next) -> Response {
    let begin = Instant::now();
    let id = request_id(request.headers()).unwrap_or_else(|| {
        let id = app.id("req_");
        HeaderValue::from_str(&id).unwrap_or(HeaderValue::from_static("req"))
    });
    request.headers_mut().insert("x-request-id", id.clone());
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map(|p| p.as_str().to_owned());
    let origin = allowed_origin(&app, request.headers());
    let preflight =
        method == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let wanted = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let browser = request.uri().path() == "/" && method == Method::GET && wants_html(request.headers());
    let mut response = match permitted(&app, &request) {
        // The page that asks for the key is the answer itself: there is nowhere else to enter it.
        Err(error) if error.status == StatusCode::UNAUTHORIZED && browser => {
            (error.status, plain::page().await).into_response()
        }
        Err(error) => error.into_response(),
        Ok(()) if preflight && origin.is_some() => StatusCode::NO_CONTENT.into_response(),
        Ok(()) => caught(next.run(request)).await,
    };
    let headers = response.headers_mut();
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
        let expose = HeaderValue::from_static("x-request-id, retry-after");
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, expose);
        if preflight {
            let methods = HeaderValue::from_static("GET, POST, DELETE, OPTIONS");
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
            // Clients add headers of their own, and which ones is no secret.
            let usual = HeaderValue::from_static("authorization, content-type, x-request-id");
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.unwrap_or(usual));
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        }
    }
    headers.insert("x-request-id", id.clone());
    let route = route.as_deref().unwrap_or("-");
    let polled = ["/health", "/ready", "/metrics"].iter().any(|end| route.ends_with(end));
    let level = if polled { log::Level::Debug } else { log::Level::Info };
    // The time is to the response's head: a stream goes on after that.
    log::log!(
        target: "unimlx::serve",
        level,
        "request id={} method={method} route={route} status={} ms={}",
        id.to_str().unwrap_or("-"),
        response.status().as_u16(),
        begin.elapsed().as_millis(),
    );
    response
}

/// The client's own id, if it is one that may stand in a log.
fn request_id(headers: &HeaderMap) -> Option<HeaderValue> {
    let id = headers.get("x-request-id")?;
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-_.:".contains(b);
    ((1..=128).contains(&id.len()) && id.as_bytes().iter().all(plain)).then(|| id.clone())
}

/// Headers that mean something here only once.
const SINGLE: [header::HeaderName; 4] =
    [header::HOST, header::AUTHORIZATION, header::CONTENT_TYPE, header::CONTENT_LENGTH];

fn permitted(app: &App, request: &Request<Body>) -> Result<(), ApiError> {
    if let Some(name) = SINGLE.iter().find(|name| request.headers().get_all(*name).iter().count() > 1) {
        let message = format!("The header `{name}` is there more than once.");
        return Err(ApiError { code: Some("duplicate_header"), ..ApiError::bad(message) });
    }
    if !host_allowed(app, request.uri(), request.headers()) {
        let message = "This server does not answer to that name. See --allowed-host.";
        return Err(ApiError::new(StatusCode::FORBIDDEN, Some("host_not_allowed"), message));
    }
    if request.method() == Method::POST && is_foreign(app, request) {
        let message = "Web pages of that origin may not use this server. See --cors-origin.";
        return Err(ApiError::new(StatusCode::FORBIDDEN, Some("origin_not_allowed"), message));
    }
    // Browsers send preflights without keys; they reveal nothing.
    let probed = matches!(request.uri().path(), "/health" | "/ready");
    let free = probed || request.method() == Method::OPTIONS;
    if app.options.api_keys.is_empty() || free || key_known(&app.options.api_keys, request.headers()) {
        return Ok(());
    }
    let message = "No or wrong API key: send Authorization: Bearer KEY.";
    Err(ApiError::new(StatusCode::UNAUTHORIZED, Some("invalid_api_key"), message))
}

fn wants_html(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/html"))
}

/// Compares with every key in time that depends on none.
fn key_known(keys: &[String], headers: &HeaderMap) -> bool {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|v| {
        let (scheme, key) = v.as_bytes().split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii_start())
    });
    let Some(key) = bearer.or(headers.get("x-api-key").map(HeaderValue::as_bytes)) else { return false };
    let padded = |key: &[u8]| {
        let mut room = [0u8; MOST_KEY];
        room.iter_mut().zip(key).for_each(|(r, k)| *r = *k);
        room
    };
    let given = padded(key);
    let same = |known: &String| {
        (known.len() as u64).ct_eq(&(key.len() as u64)) & padded(known.as_bytes())[..].ct_eq(&given[..])
    };
    keys.iter().map(same).fold(Choice::from(0), |any, one| any | one).into()
}

/// What a request calls this server, if it says so once.
fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    let mut given = headers.get_all(header::HOST).iter();
    match (given.next(), given.next()) {
        (Some(host), None) => host.to_str().ok(),
        (None, None) => uri.authority().map(|a| a.as_str()),
        _ => None,
    }
}

fn host_allowed(app: &App, uri: &Uri, headers: &HeaderMap) -> bool {
    let Some(hosts) = &app.options.hosts else { return true };
    let Some(host) = host(uri, headers) else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    hosts.iter().any(|h| h.eq_ignore_ascii_case(name))
}

/// Whether a page from elsewhere makes a browser ask: it does not need to see the answer to do harm.
fn is_foreign(app: &App, request: &Request<Body>) -> bool {
    let headers = request.headers();
    if allowed_origin(app, headers).is_some() {
        return false;
    }
    match headers.get("sec-fetch-site").map(HeaderValue::as_bytes) {
        // Only browsers send this, and behind a proxy only they know it.
        Some(b"same-origin") => return false,
        Some(b"cross-site") => return true,
        _ => {}
    }
    headers.get(header::ORIGIN).is_some_and(|origin| {
        let at = origin.to_str().ok().and_then(|origin| Some(origin.split_once("://")?.1));
        let own = host(request.uri(), headers);
        !at.zip(own).is_some_and(|(at, own)| at.eq_ignore_ascii_case(own))
    })
}

fn allowed_origin(app: &App, headers: &HeaderMap) -> Option<HeaderValue> {
    let origin = headers.get(header::ORIGIN)?;
    let known = |o: &String| o == "*" || o.as_bytes() == origin.as_bytes();
    let allowed = app.options.cors_origins.iter().any(known);
    let star = app.options.cors_origins.iter().any(|o| o == "*");
    allowed.then(|| if star { HeaderValue::from_static("*") } else { origin.clone() })
}

/// A panic is a bug here, but no reason to drop the connection.
async fn caught(work: impl Future<Output = Response>) -> Response {
    let mut work = pin!(work);
    poll_fn(|cx| {
        catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx)))
            .unwrap_or_else(|_| Poll::Ready(ApiError::internal().into_response()))
    })
    .await
}

/// Refuses keys that could not be compared or sent.
pub(super) fn check_keys(keys: &[String]) -> crate::error::Result<()> {
    let fine = |k: &String| (1..=MOST_KEY).contains(&k.len()) && k.bytes().all(|b| b.is_ascii_graphic());
    if keys.iter().all(fine) {
        return Ok(());
    }
    let message = format!("an API key must have 1 to {MOST_KEY} printable ASCII characters without spaces");
    Err(crate::error::Error::input(message))
}
