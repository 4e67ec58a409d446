//! [`Server`]: the router on a port, with the limits that sockets need.
//!
//! The accept loop is our own: connections are counted, heads must come in time, and a reader that takes too little
//! from a full socket is dropped with its work.

use super::app::{App, Peer, Phase};
use super::engine::Engine;
use super::guard;
use super::options::Options;
use super::routes;
use crate::error::{Error, Result};
use axum::http::Request;
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Sleep, sleep};
use tower::ServiceExt;

/// Bytes that the system may keep for a reader: what is beyond waits here, where it is counted.
const SEND_BUFFER: u32 = 128 << 10;
/// Bytes that a reader takes in time from a full socket.
const PROGRESS: usize = 64 << 10;
/// Bytes of a request's head.
const HEAD: usize = 32 << 10;

/// The API on a port.
#[derive(Debug)]
pub struct Server {
    app: Arc<App>,
    listener: TcpListener,
}

impl Server {
    /// Listens at an address. Called inside a tokio runtime.
    ///
    /// # Errors
    /// An address that other machines can reach, without API keys, unless `open` says that this is meant; a key
    /// that cannot be sent; no connections; the address is taken.
    pub fn bind(engine: Arc<dyn Engine>, at: SocketAddr, open: bool, mut options: Options) -> Result<Self> {
        guard::check_keys(&options.api_keys)?;
        if options.connections == 0 {
            return Err(Error::input("a server without connections, expected at least 1"));
        }
        let local = at.ip().is_loopback();
        if !local && options.api_keys.is_empty() && !open {
            return Err(Error::input(format!(
                "{at} can be reached from other machines, and there is no API key: set one, or say that it is meant"
            )));
        }
        if local {
            let names = ["localhost", "127.0.0.1", "[::1]"].map(str::to_owned).into_iter();
            let own = std::iter::once(match at.ip() {
                IpAddr::V4(ip) => ip.to_string(),
                IpAddr::V6(ip) => format!("[{ip}]"),
            });
            options.hosts.get_or_insert_default().extend(names.chain(own));
        }
        let fail = |e: io::Error| Error::io(format!("cannot listen at {at}: {e}"));
        let socket = if at.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let socket = socket.map_err(fail)?;
        // On other systems this means that two servers may share a port.
        #[cfg(unix)]
        socket.set_reuseaddr(true).map_err(fail)?;
        socket.set_send_buffer_size(SEND_BUFFER).map_err(fail)?;
        socket.bind(at).map_err(fail)?;
        let listener = socket.listen(1024).map_err(fail)?;
        Ok(Self { app: App::new(engine, options), listener })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system does not say.
    pub fn address(&self) -> Result<SocketAddr> {
        self.listener.local_addr().map_err(|e| Error::io(format!("the listener has no address: {e}")))
    }

    /// Serves until `stop` is done, then lets answers end for [`Options::drain`], and cuts those that have not.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let Self { app, listener } = self;
        let router = routes::router(app.clone());
        let options = &app.options;
        // More than there are descriptors anywhere.
        let most = options.connections.min(1 << 24) as u32;
        let places = Arc::new(Semaphore::new(most as usize));
        let mut stop = pin!(stop);
        loop {
            let place = tokio::select! {
                Ok(place) = places.clone().acquire_owned() => place,
                () = &mut stop => break,
            };
            let (stream, peer) = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => (stream, Peer(peer.ip())),
                    Err(e) => {
                        // Out of descriptors, most likely: connections that end give some back.
                        log::warn!(target: "unimlx::serve", "cannot accept: {e}");
                        sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
                () = &mut stop => break,
            };
            let (router, app) = (router.clone(), app.clone());
            tokio::spawn(async move {
                connection(stream, peer, router, &app).await;
                drop(place);
            });
        }
        drop(listener);
        app.phase.send_replace(Phase::Draining);
        let ended = tokio::time::timeout(options.drain, places.acquire_many(most)).await;
        app.phase.send_replace(Phase::Ending);
        if ended.is_err() {
            let _ = tokio::time::timeout(Duration::from_secs(1), places.acquire_many(most)).await;
        }
    }
}

async fn connection(stream: TcpStream, peer: Peer, router: axum::Router, app: &App) {
    let _ = stream.set_nodelay(true);
    let io = Patient { io: TokioIo::new(stream), limit: app.options.write_timeout, stalled: None, taken: 0 };
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(app.options.header_timeout).max_buf_size(HEAD);
    let service = router.map_request(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        request
    });
    let mut serving = pin!(http.serve_connection(io, TowerToHyperService::new(service)));
    let mut phase = app.phase.subscribe();
    tokio::select! {
        outcome = &mut serving => return log_end(outcome),
        _ = phase.wait_for(|p| *p != Phase::Serving) => {}
    }
    serving.as_mut().graceful_shutdown();
    log_end(serving.await);
}

fn log_end(outcome: hyper::Result<()>) {
    if let Err(e) = outcome {
        log::debug!(target: "unimlx::serve", "connection ended: {e}");
    }
}

/// A socket that gives up on a reader.
struct Patient {
    io: TokioIo<TcpStream>,
    limit: Duration,
    /// Set while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Bytes since then.
    taken: usize,
}

impl Patient {
    /// What became of a write of `all` bytes. A reader that takes a little now and then still is too slow.
    fn judge(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Poll<io::Result<usize>>,
        all: usize,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(n)) = outcome {
            self.taken += n;
            if n == all || self.taken >= PROGRESS {
                (self.stalled, self.taken) = (None, 0);
                return outcome;
            }
        }
        let limit = self.limit;
        let timer = self.stalled.get_or_insert_with(|| Box::pin(sleep(limit)));
        match timer.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => outcome,
        }
    }
}

impl Read for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl Write for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write(cx, buf);
        self.judge(cx, outcome, buf.len())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all: usize = bufs.iter().map(|b| b.len()).sum();
        let outcome = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.judge(cx, outcome, all)
    }
}

/// SIGTERM and Ctrl-C, caught from the moment it exists: none that comes between two waits is lost.
#[derive(Debug)]
pub struct StopSignals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(windows)]
    interrupt: tokio::signal::windows::CtrlC,
}

impl StopSignals {
    /// Starts to catch them. Belongs inside a tokio runtime, before anyone learns that the server runs.
    ///
    /// # Errors
    /// Signals cannot be watched.
    pub fn watch() -> Result<StopSignals> {
        let fail = |e: io::Error| Error::io(format!("signals cannot be watched: {e}"));
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            Ok(StopSignals {
                terminate: signal(SignalKind::terminate()).map_err(fail)?,
                interrupt: signal(SignalKind::interrupt()).map_err(fail)?,
            })
        }
        #[cfg(windows)]
        Ok(StopSignals { interrupt: tokio::signal::windows::ctrl_c().map_err(fail)? })
    }

    /// Done at the next one.
    pub async fn next(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        #[cfg(windows)]
        self.interrupt.recv().await;
    }
}
