//! [`Kept`]: responses that clients refer to later. In memory only, for the caller alone, the oldest forgotten first.

use super::app::{App, Caller, ID};
use super::error::ApiError;
use super::messages::arguments;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Request, StatusCode};
use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Result<T> = std::result::Result<T, ApiError>;

/// What is kept of one response, as text: values take several times as much memory.
struct Entry {
    /// Whose it is.
    key: u64,
    /// The items before it: of all earlier responses that it goes on from, and its own input.
    before: String,
    response: String,
}

impl Entry {
    fn bytes(&self) -> usize {
        self.before.len() + self.response.len()
    }
}

/// What was written here can be read.
fn read(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

#[derive(Default)]
struct Inner {
    entries: HashMap<String, Entry>,
    /// Their ids, oldest first.
    order: VecDeque<String>,
    bytes: usize,
}

impl Inner {
    fn own(&self, key: u64, id: &str) -> Option<&Entry> {
        self.entries.get(id).filter(|entry| entry.key == key)
    }

    fn forget(&mut self, id: &str) -> Option<Entry> {
        let entry = self.entries.remove(id)?;
        self.bytes -= entry.bytes();
        Some(entry)
    }
}

/// Responses, up to a number of bytes of JSON.
pub(super) struct Kept {
    most: usize,
    inner: Mutex<Inner>,
}

impl Kept {
    /// Keeps nothing if there are no bytes.
    pub(super) fn new(most: usize) -> Self {
        Self { most, inner: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether anything is kept.
    pub(super) fn is_on(&self) -> bool {
        self.most > 0
    }

    /// Keeps a response and the items before it, an array as text, unless they alone are too much.
    pub(super) fn keep(&self, key: u64, before: String, response: &Value) {
        let Some(id) = response["id"].as_str() else { return };
        let entry = Entry { key, before, response: response.to_string() };
        if entry.bytes() > self.most {
            return;
        }
        let mut inner = self.lock();
        while inner.bytes + entry.bytes() > self.most
            && let Some(oldest) = inner.order.pop_front()
        {
            inner.forget(&oldest);
        }
        inner.bytes += entry.bytes();
        inner.order.push_back(id.to_owned());
        inner.entries.insert(id.to_owned(), entry);
    }

    fn response(&self, key: u64, id: &str) -> Option<Value> {
        let text = self.lock().own(key, id)?.response.clone();
        Some(read(&text))
    }

    /// Everything up to and with a response, as items of an input.
    pub(super) fn history(&self, key: u64, id: &str) -> Option<Vec<Value>> {
        let [before, response] = {
            let inner = self.lock();
            let entry = inner.own(key, id)?;
            [entry.before.clone(), entry.response.clone()]
        };
        let Value::Array(mut items) = read(&before) else { return None };
        items.extend(output(read(&response)).into_iter().map(said));
        Some(items)
    }

    /// An item that a response has given: its id has the response's in it.
    pub(super) fn item(&self, key: u64, id: &str) -> Option<Value> {
        let (_, own) = id.split_once('_')?;
        let response = self.response(key, &format!("resp_{}", own.get(..ID)?))?;
        output(response).into_iter().find(|item| item["id"] == id).map(said)
    }
}

fn output(mut response: Value) -> Vec<Value> {
    match response["output"].take() {
        Value::Array(items) => items,
        _ => Vec::new(),
    }
}

/// An item as later requests see it: of a call that was cut off within its arguments, or has malformed ones, only
/// the text stays. As a call it could not be read, and its client has no way to mend it.
fn said(item: Value) -> Value {
    match item["arguments"].as_str() {
        Some(text) if arguments(text).is_none() => {
            json!({ "type": "message", "role": "assistant", "content": text })
        }
        _ => item,
    }
}

fn missing(id: &str) -> ApiError {
    let id: String = id.chars().take(64).collect();
    let message = format!("Response with id '{id}' not found.");
    ApiError::new(StatusCode::NOT_FOUND, Some("response_not_found"), message)
}

/// Refuses what a query asks for besides: there is nothing to choose.
fn plain(request: &Request<Body>) -> Result<Caller> {
    match request.uri().query() {
        Some(query) if !query.is_empty() => Err(ApiError::bad("Query parameters are not supported here.")),
        _ => Ok(Caller::of(request)),
    }
}

pub(super) async fn get(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    request: Request<Body>,
) -> Result<Json<Value>> {
    let key = plain(&request)?.key;
    app.kept.response(key, &id).map(Json).ok_or_else(|| missing(&id))
}

pub(super) async fn delete(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    request: Request<Body>,
) -> Result<Json<Value>> {
    let key = plain(&request)?.key;
    let mut inner = app.kept.lock();
    inner.own(key, &id).ok_or_else(|| missing(&id))?;
    inner.forget(&id);
    inner.order.retain(|other| *other != id);
    Ok(Json(json!({ "id": id, "object": "response", "deleted": true })))
}
