//! Server-sent events: a task that writes, a body that reads.
//!
//! When the body is dropped, because the reader has gone, the task ends, and with it the engine's work.

use super::app::App;
use super::error::ApiError;
use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use http_body::Frame;
use serde_json::Value;
use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;

/// Events that may wait for the socket.
const QUEUE: usize = 16;
/// Some clients give up when nothing comes for minutes: a comment comes.
const PING: Duration = Duration::from_secs(15);

/// Writes events.
#[derive(Clone, Debug)]
pub(super) struct Emitter(mpsc::Sender<Bytes>);

impl Emitter {
    async fn send(&self, text: String) {
        // A reader that has gone is noticed by the task.
        let _ = self.0.send(text.into()).await;
    }

    pub(super) async fn json(&self, value: &Value) {
        self.send(format!("data: {value}\n\n")).await;
    }

    /// An event with a name, as the Responses API has them.
    pub(super) async fn named(&self, name: &str, value: &Value) {
        self.send(format!("event: {name}\ndata: {value}\n\n")).await;
    }

    pub(super) async fn done(&self) {
        self.send("data: [DONE]\n\n".to_owned()).await;
    }

    async fn error(&self, error: &ApiError) {
        self.json(&error.body()).await;
        self.done().await;
    }
}

/// A response that `write` writes. An error that it ends with becomes an event, and so does the server's end.
pub(super) fn stream<F>(app: &Arc<App>, write: impl FnOnce(Emitter) -> F) -> Response
where
    F: Future<Output = Result<(), ApiError>> + Send + 'static,
{
    let app = app.clone();
    response(|out| {
        let work = write(out.clone());
        async move {
            if let Err(error) = app.until_end(work).await {
                out.error(&error).await;
            }
        }
    })
}

/// A response that `write` writes, whatever happens.
pub(super) fn response<F>(write: impl FnOnce(Emitter) -> F) -> Response
where
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(QUEUE);
    let work = write(Emitter(sender.clone()));
    tokio::spawn(async move {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                () = &mut work => return,
                () = sender.closed() => return,
                () = tokio::time::sleep(PING) => {
                    let _ = sender.try_send(Bytes::from_static(b": ping\n\n"));
                }
            }
        }
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, Body::new(Reader(receiver))).into_response()
}

struct Reader(mpsc::Receiver<Bytes>);

impl http_body::Body for Reader {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|b| Ok(Frame::data(b))))
    }
}
