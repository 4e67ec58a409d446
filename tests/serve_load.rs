//! The API on a real port, over the mock engine: many streams, clients that vanish, clients that do not read, too
//! many requests, the end. `UNIMLX_SOAK=1` runs the long forms, whose figures are in docs/serving.md.
#![cfg(feature = "serve")]

use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use unimlx::serve::{Engine, MockEngine, Options, Script, Server};

struct Running {
    engine: MockEngine,
    at: SocketAddr,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

fn start(script: Script, options: Options) -> Running {
    let engine = MockEngine::new(script).unwrap();
    let at = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = Server::bind(Arc::new(engine.clone()), at, false, options).unwrap();
    let at = server.address().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(server.run(async { drop(stopped.await) }));
    Running { engine, at, stop, server }
}

fn request(body: &Value) -> String {
    let body = body.to_string();
    let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close";
    format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn stream(prompt: &str, more: Value) -> String {
    let mut body = json!({ "model": "mock", "prompt": prompt, "stream": true, "max_tokens": 4000 });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    request(&body)
}

async fn connect(at: SocketAddr, request: &str) -> TcpStream {
    let mut socket = TcpStream::connect(at).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    socket
}

async fn read(mut socket: TcpStream) -> String {
    let mut all = Vec::new();
    socket.read_to_end(&mut all).await.unwrap();
    String::from_utf8(all).unwrap()
}

/// The text of a streamed completion; `None` without its end.
fn streamed(response: &str) -> Option<String> {
    let events = response.lines().filter_map(|l| l.strip_prefix("data: "));
    let mut text = String::new();
    for event in events {
        if event == "[DONE]" {
            return Some(text);
        }
        let event: Value = serde_json::from_str(event).ok()?;
        text += event["choices"][0]["text"].as_str()?;
    }
    None
}

/// Waits until nothing runs and nothing waits.
async fn idle(engine: &MockEngine, within: Duration) {
    let begin = Instant::now();
    loop {
        let load = engine.load();
        if (load.running, load.waiting, load.cache_used) == (0, 0, 0) {
            return;
        }
        assert!(begin.elapsed() < within, "after {within:?}: {load:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether the long forms are wanted.
fn soak() -> bool {
    std::env::var_os("UNIMLX_SOAK").is_some()
}

/// Bytes of this process in memory.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    pages.split(' ').nth(1).and_then(|n| n.parse::<usize>().ok()).unwrap_or(0) * 4096
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_streams_get_every_byte_in_time() {
    let pace = Duration::from_millis(25);
    let server = start(Script { slots: 256, pace, ..Script::default() }, Options::default());
    let before = resident();
    let mut clients = JoinSet::new();
    for i in 0..256 {
        let (at, prompt) = (server.at, format!("{i} x").repeat(70)[..200].to_owned());
        clients.spawn(async move {
            let mut socket = connect(at, &stream(&prompt, json!({}))).await;
            let (mut all, mut some, mut gaps) = (Vec::new(), [0; 4096], Vec::new());
            let mut latest = Instant::now();
            loop {
                let n = socket.read(&mut some).await.unwrap();
                if n == 0 {
                    break;
                }
                all.extend_from_slice(&some[..n]);
                gaps.push(latest.elapsed().saturating_sub(pace));
                latest = Instant::now();
            }
            assert_eq!(streamed(&String::from_utf8(all).unwrap()).as_deref(), Some(&prompt[..]));
            (gaps, resident())
        });
    }
    let (mut gaps, mut most) = (Vec::new(), 0);
    while let Some(client) = clients.join_next().await {
        let (own, memory) = client.unwrap();
        gaps.extend(own);
        most = most.max(memory);
    }
    gaps.sort_unstable();
    let (p50, p99) = (gaps[gaps.len() / 2], gaps[gaps.len() * 99 / 100]);
    let per_stream = most.saturating_sub(before) / 256;
    println!(
        "added gap p50 {p50:?}, p99 {p99:?}; {} KiB per stream, client's half included",
        per_stream >> 10
    );
    // Other tests run beside this one, unless this is what is measured.
    let most = Duration::from_millis(if soak() { 25 } else { 500 });
    assert!(p99 <= most, "added gap p99 {p99:?}");
    assert!(per_stream < 1 << 20, "{per_stream} bytes per stream");
    assert_eq!(server.engine.generated(), 256 * 200);
    idle(&server.engine, Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_vanish_leave_nothing_behind() {
    let pace = Duration::from_millis(5);
    let script = Script { slots: 64, queue: 4096, pace, answer: Some("x".repeat(4000)), ..Script::default() };
    let server = start(script, Options::default());
    for round in 0..10 {
        let mut clients = JoinSet::new();
        for i in 0..100 {
            let at = server.at;
            clients.spawn(async move {
                // Half of them wait for a whole answer.
                let mut socket = connect(at, &stream("p", json!({ "stream": i % 2 == 0 }))).await;
                if i % 4 == 0 {
                    let mut some = [0; 64];
                    let _ = tokio::time::timeout(Duration::from_millis(50), socket.read(&mut some)).await;
                }
                tokio::time::sleep(Duration::from_millis(20 + i % 30)).await;
                if i % 3 == 0 {
                    socket.set_zero_linger().unwrap(); // a reset instead of an end
                }
            });
        }
        while clients.join_next().await.is_some() {}
        if round == 9 {
            let begin = Instant::now();
            idle(&server.engine, Duration::from_secs(if soak() { 1 } else { 2 })).await;
            println!("1000 clients that vanished: nothing is left after {:?}", begin.elapsed());
        }
    }
    let text = read(connect(server.at, &stream("p", json!({ "max_tokens": 10 }))).await).await;
    assert_eq!(streamed(&text).as_deref(), Some("xxxxxxxxxx"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overload_is_refused_with_a_time_to_come_back() {
    // Twenty requests a second can be answered; two hundred come.
    let script = Script { slots: 2, queue: 8, pace: Duration::from_millis(5), ..Script::default() };
    let server = start(script, Options::default());
    let seconds = if soak() { 120 } else { 2 };
    let (mut served, mut refused, mut clients) = (0, 0, JoinSet::new());
    let mut check = |response: String| {
        if response.starts_with("HTTP/1.1 200") {
            assert_eq!(streamed(&response).as_deref(), Some("twenty tokens, or so"));
            served += 1;
        } else {
            assert!(response.starts_with("HTTP/1.1 429"), "{response}");
            assert!(response.contains("retry-after: 1\r\n") && response.contains("queue_full"), "{response}");
            refused += 1;
        }
    };
    let mut clock = tokio::time::interval(Duration::from_millis(5));
    for _ in 0..200 * seconds {
        clock.tick().await;
        let at = server.at;
        // A connection that is refused or reset fails the test.
        clients
            .spawn(async move { read(connect(at, &stream("twenty tokens, or so", json!({}))).await).await });
        while let Some(client) = clients.try_join_next() {
            check(client.unwrap());
        }
    }
    while let Some(client) = clients.join_next().await {
        check(client.unwrap());
    }
    println!("10x overload for {seconds} s: {served} served, {refused} refused, no connection lost");
    assert!(served >= 5 * seconds && refused >= 50 * seconds, "{served} served, {refused} refused");
    idle(&server.engine, Duration::from_secs(1)).await;
}

/// Eight readers of one byte a second, and how long eight others take meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_do_not_slow_others() {
    let mut options = Options::default();
    if !soak() {
        options.write_timeout = Duration::from_secs(3);
    }
    let limit = options.write_timeout + Duration::from_secs(5);
    let context_length = 1 << 20;
    let script = Script { answer: Some("y".repeat(60_000)), slots: 32, context_length, ..Script::default() };
    let server = start(Script { pace: Duration::from_millis(1), ..script }, options);
    let others = async || {
        let begin = Instant::now();
        let mut clients = JoinSet::new();
        for _ in 0..8 {
            let at = server.at;
            clients.spawn(async move {
                read(connect(at, &stream("p", json!({ "max_tokens": 2000 }))).await).await
            });
        }
        while let Some(client) = clients.join_next().await {
            assert_eq!(streamed(&client.unwrap()).map(|t| t.len()), Some(2000));
        }
        begin.elapsed().as_secs_f64()
    };
    let alone = others().await;
    let begin = Instant::now();
    let mut slow = JoinSet::new();
    for _ in 0..8 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut socket = socket.connect(server.at).await.unwrap();
        socket.write_all(stream("p", json!({ "max_tokens": 60_000 })).as_bytes()).await.unwrap();
        slow.spawn(async move {
            while let Ok(1) = socket.read(&mut [0]).await {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
    }
    let beside = others().await;
    println!("8 readers of a byte a second: others take {beside:.3} s instead of {alone:.3} s");
    assert!(beside < alone * if soak() { 1.05 } else { 1.5 }, "{beside} s instead of {alone} s");
    idle(&server.engine, limit.saturating_sub(begin.elapsed())).await;
    println!("slow readers are dropped after {:?}", begin.elapsed());
    slow.abort_all();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_is_dropped_and_others_do_not_notice() {
    let mut options = Options::default();
    options.write_timeout = Duration::from_millis(700);
    let context_length = 1 << 20;
    let script = Script { answer: Some("y".repeat(50_000)), slots: 16, context_length, ..Script::default() };
    let server = start(Script { pace: Duration::from_micros(100), ..script }, options);
    let mut stuck = Vec::new();
    for _ in 0..8 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut socket = socket.connect(server.at).await.unwrap();
        socket.write_all(stream("p", json!({ "max_tokens": 50_000 })).as_bytes()).await.unwrap();
        stuck.push(socket);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let text = read(connect(server.at, &stream("p", json!({ "max_tokens": 500 }))).await).await;
    assert_eq!(streamed(&text).map(|t| t.len()), Some(500));
    idle(&server.engine, Duration::from_secs(8)).await;
    assert!(server.engine.generated() < 8 * 50_000, "nobody was dropped");
    drop(stuck);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_nobody_fetches_holds_no_place_for_long() {
    let mut options = Options::default();
    (options.write_timeout, options.connections) = (Duration::from_millis(700), 1);
    let script = Script { answer: Some("y".repeat(4000)), context_length: 1 << 20, ..Script::default() };
    let server = start(script, options);
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stuck = socket.connect(server.at).await.unwrap();
    stuck.write_all(stream("p", json!({})).as_bytes()).await.unwrap();
    // The engine has done its part.
    while server.engine.generated() < 4000 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let begin = Instant::now();
    let next = connect(server.at, &stream("p", json!({ "max_tokens": 5 }))).await;
    let text = tokio::time::timeout(Duration::from_secs(10), read(next)).await.unwrap();
    assert_eq!(streamed(&text).as_deref(), Some("yyyyy"));
    assert!(begin.elapsed() > Duration::from_millis(300), "the first connection was no hindrance");
    drop(stuck);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_but_steady_reader_gets_all_of_a_large_body() {
    let mut options = Options::default();
    options.write_timeout = Duration::from_millis(1000);
    let server = start(Script::default(), options);
    let body = json!({ "tokens": vec![121; 1_000_000] }).to_string();
    let head = "POST /detokenize HTTP/1.1\r\nHost: localhost\r\nConnection: close";
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(32 << 10).unwrap();
    let mut socket = socket.connect(server.at).await.unwrap();
    let request = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    socket.write_all(request.as_bytes()).await.unwrap();
    let (mut some, mut all, mut begin) = (vec![0; 32 << 10], 0, None);
    loop {
        let n = socket.read(&mut some).await.unwrap();
        if n == 0 {
            break;
        }
        begin.get_or_insert_with(Instant::now);
        all += n;
        tokio::time::sleep(Duration::from_millis(n as u64 / 600)).await;
    }
    assert!(all > 2_000_000, "{all} bytes");
    assert!(begin.unwrap().elapsed() > Duration::from_millis(1500), "not slow at all");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_request_is_not_waited_for() {
    let mut options = Options::default();
    (options.header_timeout, options.body_timeout) = (Duration::from_millis(300), Duration::from_millis(300));
    options.connections = 8;
    let server = start(Script::default(), options);
    let begin = Instant::now();
    let mut clients = JoinSet::new();
    for i in 0..24 {
        let at = server.at;
        let whole = stream("p", json!({}));
        let part = if i % 2 == 0 { whole[..20].to_owned() } else { whole[..whole.len() - 5].to_owned() };
        clients.spawn(async move {
            let response = read(connect(at, &part).await).await;
            assert!(i % 2 == 0 || response.starts_with("HTTP/1.1 408"), "{response}");
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert_eq!(server.engine.load().running, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_waits_for_answers_but_not_for_ever() {
    for (drain, whole) in [(Duration::from_secs(20), true), (Duration::from_millis(100), false)] {
        let mut options = Options::default();
        options.drain = drain;
        let script =
            Script { pace: Duration::from_millis(20), answer: Some("z".repeat(30)), ..Script::default() };
        let server = start(script, options);
        let at = server.at;
        let client = tokio::spawn(async move { read(connect(at, &stream("p", json!({}))).await).await });
        tokio::time::sleep(Duration::from_millis(100)).await;
        server.stop.send(()).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(TcpStream::connect(at).await.is_err(), "a new connection while stopping");
        let response = client.await.unwrap();
        if whole {
            assert_eq!(streamed(&response).map(|t| t.len()), Some(30));
        } else {
            assert!(response.contains("shutting_down") && response.contains("[DONE]"), "{response}");
        }
        tokio::time::timeout(Duration::from_secs(3), server.server).await.unwrap().unwrap();
        idle(&server.engine, Duration::from_secs(1)).await;
    }
}

#[tokio::test]
async fn an_open_bind_needs_a_key() {
    let engine = Arc::new(MockEngine::new(Script::default()).unwrap());
    let bind = |keys: &[&str], open: bool| {
        let mut options = Options::default();
        options.api_keys = keys.iter().map(|k| (*k).to_owned()).collect();
        Server::bind(engine.clone(), SocketAddr::from(([0, 0, 0, 0], 0)), open, options)
    };
    assert!(bind(&[], false).unwrap_err().is_input());
    assert!(bind(&["two words"], false).unwrap_err().is_input() && bind(&[""], false).is_err());
    assert!(bind(&["key"], false).is_ok() && bind(&[], true).is_ok());
}

#[tokio::test]
async fn a_server_has_connections() {
    let engine = Arc::new(MockEngine::new(Script::default()).unwrap());
    let bind = |connections: usize| {
        let mut options = Options::default();
        options.connections = connections;
        Server::bind(engine.clone(), SocketAddr::from(([127, 0, 0, 1], 0)), false, options)
    };
    assert!(bind(0).unwrap_err().is_input());
    // As many as there can be, to its end.
    tokio::time::timeout(Duration::from_secs(5), bind(usize::MAX).unwrap().run(async {})).await.unwrap();
}
