//! Requests that mean harm, over a real port: each gets its 4xx, in bounded time and memory.
#![cfg(feature = "serve")]

use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use unimlx::serve::{MockEngine, Options, Script, Server};

const CHAT: &str = "/v1/chat/completions";

async fn start() -> SocketAddr {
    let engine = MockEngine::new(Script::default()).unwrap();
    let at = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = Server::bind(Arc::new(engine), at, false, Options::default()).unwrap();
    let at = server.address().unwrap();
    tokio::spawn(server.run(std::future::pending()));
    at
}

/// Status and body of what comes back, though the request may not be read to its end.
async fn send(at: SocketAddr, head: &str, body: &[u8]) -> (u16, String) {
    let mut socket = TcpStream::connect(at).await.unwrap();
    let (mut read, mut write) = socket.split();
    let (head, mut answer) = (format!("{head}\r\n\r\n"), Vec::new());
    let sending = async {
        let _ = write.write_all(head.as_bytes()).await;
        let _ = write.write_all(body).await;
    };
    let reading = async {
        let _ = read.read_to_end(&mut answer).await;
    };
    tokio::join!(sending, reading);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned()))
}

fn head(path: &str, length: usize) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {length}"
    )
}

async fn post(at: SocketAddr, path: &str, body: &[u8]) -> (u16, String) {
    send(at, &head(path, body.len()), body).await
}

/// Bytes of this process in memory at most so far.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap_or(0) << 10
}

/// A chat with this added.
fn chat(more: &Value) -> Vec<u8> {
    let mut body =
        json!({ "model": "mock", "max_tokens": 1, "messages": [{ "role": "user", "content": "hi" }] });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body.to_string().into_bytes()
}

fn schema(schema: Value) -> Value {
    json!({ "response_format": { "type": "json_schema", "json_schema": { "name": "a", "schema": schema } } })
}

fn tool(parameters: Value) -> Value {
    let function = json!({ "name": "f", "parameters": parameters });
    json!({ "tools": [{ "type": "function", "function": function }], "tool_choice": "required" })
}

/// Schemas that would become very large, or cannot be met.
fn bombs() -> Vec<Value> {
    let mut nested = json!({ "type": "string" });
    for _ in 0..90 {
        nested = json!({ "type": "object", "properties": { "a": nested } });
    }
    let mut doubled = serde_json::Map::new();
    for i in 0..40 {
        let next = format!("#/$defs/d{}", i + 1);
        doubled.insert(format!("d{i}"), json!({ "allOf": [{ "$ref": next }, { "$ref": next }] }));
    }
    doubled.insert("d40".to_owned(), json!({ "type": "string" }));
    let choices: Vec<Value> =
        (0..30).map(|i| json!({ "properties": { format!("p{i}"): { "const": i } } })).collect();
    vec![
        nested,
        json!({ "$defs": doubled, "$ref": "#/$defs/d0" }),
        json!({ "allOf": vec![json!({ "anyOf": choices }); 8] }),
        json!({ "enum": vec!["x"; 10_000] }),
        json!({ "type": "string", "pattern": "(((((a{1,999}){1,999}){1,999}){1,999}){1,999})" }),
        json!({ "type": "string", "pattern": "a".repeat(10_000) }),
        json!({ "type": "array", "items": { "type": "string" }, "minItems": 1_000_000 }),
        json!({ "$defs": { "a": { "$ref": "#/$defs/a" } }, "$ref": "#/$defs/a" }),
        json!({ "$ref": "https://example.com/schema.json" }),
        json!({ "type": "wrong" }),
        json!([1, 2]),
        json!({ "type": "integer", "minimum": 5, "maximum": 1 }),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn harm_is_refused_in_bounded_time_and_memory() {
    let at = start().await;
    assert_eq!(post(at, CHAT, &chat(&json!({}))).await.0, 200);
    let before = peak();
    let deep =
        |open: &str, close: &str| format!("{}{}", open.repeat(100_000), close.repeat(100_000)).into_bytes();
    let stops: Vec<String> = (0..500_000).map(|i| format!("stop {i}")).collect();
    let many_tools: Vec<Value> =
        (0..5000).map(|i| json!({ "type": "function", "function": { "name": format!("f{i}") } })).collect();
    let content = |text: String| json!({ "messages": [{ "role": "user", "content": text }] });
    let mut harm: Vec<(&str, Vec<u8>, u16)> = vec![
        ("not UTF-8", b"{\"model\": \"\xff\xfe\"}".to_vec(), 400),
        ("half a surrogate", b"{\"model\": \"mock\", \"messages\": \"\\ud800\"}".to_vec(), 400),
        ("33 MiB", vec![b' '; 33 << 20], 413),
        ("deep lists", deep("[", "]"), 400),
        ("deep objects", deep("{\"a\":", "}"), 400),
        ("a deep field", [b"{\"model\":\"mock\",\"metadata\":".to_vec(), deep("[", "]")].concat(), 400),
        ("half a million stops", chat(&json!({ "stop": stops })), 400),
        ("a long stop", chat(&json!({ "stop": "x".repeat(1 << 20) })), 400),
        ("many tools", chat(&json!({ "tools": many_tools })), 400),
        ("a long prompt", chat(&content("word ".repeat(2 << 20))), 400),
        ("a long name", chat(&json!({ "x".repeat(1 << 20): 1 })), 400),
        ("a long model", chat(&json!({ "model": "m".repeat(1 << 20) })), 404),
        (
            "many messages",
            chat(&json!({ "messages": vec![json!({ "role": "user", "content": "" }); 100_000] })),
            400,
        ),
        ("a huge number", chat(&json!({ "max_tokens": 1e300 })), 400),
        (
            "biases",
            chat(
                &json!({ "logit_bias": (0..90_000).map(|i| (i.to_string(), json!(1))).collect::<serde_json::Map<_, _>>() }),
            ),
            400,
        ),
        (
            "a regex",
            chat(&json!({ "response_format": { "type": "regex", "regex": "((a{1,999}){1,999}){1,999}" } })),
            400,
        ),
    ];
    harm.extend(bombs().into_iter().map(|bomb| ("a schema", chat(&schema(bomb)), 400)));
    harm.extend(bombs().into_iter().map(|bomb| ("a tool", chat(&tool(bomb)), 400)));
    let (mut slowest, mut name) = (Duration::ZERO, "");
    for (what, body, status) in harm {
        let begin = Instant::now();
        let (got, answer) = post(at, CHAT, &body).await;
        let shown = String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned();
        assert_eq!(got, status, "{what}: {answer} for {shown}");
        let error: Value = serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{what}: {e}: {answer}"));
        assert!(
            error["error"]["message"].is_string() && answer.len() < 4096,
            "{what}: {} bytes",
            answer.len()
        );
        let time = begin.elapsed();
        assert!(time < Duration::from_secs(10), "{what}: {time:?} for {shown}");
        if time > slowest {
            (slowest, name) = (time, what);
        }
    }
    // Twice is no more than once.
    for lines in [
        "Host: localhost",
        "Content-Type: application/json",
        "Authorization: Bearer a\r\nAuthorization: Bearer b",
        "Content-Length: 3",
    ] {
        let body = chat(&json!({}));
        let (got, answer) = send(at, &format!("{}\r\n{lines}", head(CHAT, body.len())), &body).await;
        assert_eq!(got, 400, "{lines}: {answer}");
    }
    for lines in ["X: y\0z", "X: y\r\nno colon", &format!("X: {}", "y".repeat(100_000))] {
        let (got, _) = send(at, &format!("{}\r\n{lines}", head(CHAT, 0)), b"").await;
        assert!((400..500).contains(&got), "{} gets {got}", &lines[..9]);
    }
    let grown = peak().saturating_sub(before) >> 20;
    println!("the slowest refusal: {name}, {slowest:?}; memory grew by at most {grown} MiB");
    assert!(grown < 700, "{grown} MiB");
    assert_eq!(post(at, CHAT, &chat(&json!({}))).await.0, 200);
}
