//! `unimlx serve` as its users meet it: flags, a request over the port, how it ends.
#![cfg(all(feature = "serve", feature = "cli", unix))]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn unimlx(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unimlx"));
    for name in ["UNIMLX_MODEL", "UNIMLX_KV", "UNIMLX_LOG", "UNIMLX_HOST", "UNIMLX_PORT", "UNIMLX_API_KEY"] {
        command.env_remove(name);
    }
    command.arg("serve").args(args).args(["--device", "cpu", "--port", "0"]);
    command.env("VK_DRIVER_FILES", "/nonexistent").stdin(Stdio::null()).stderr(Stdio::piped());
    command
}

/// A process that does not outlive its test.
struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server, where it listens, and what it says.
fn start(args: &[&str]) -> (Served, String, BufReader<std::process::ChildStderr>) {
    let mut child = Served(unimlx(args).spawn().unwrap());
    let mut stderr = BufReader::new(child.0.stderr.take().unwrap());
    loop {
        let mut line = String::new();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "it ended");
        if let Some((_, at)) = line.split_once("http://") {
            return (child, at.trim().to_owned(), stderr);
        }
    }
}

fn ask(at: &str, head: &str, body: &str) -> String {
    let mut socket = TcpStream::connect(at).unwrap();
    let length = body.len();
    let text = format!("{head}\r\nHost: {at}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
    socket.write_all(text.as_bytes()).unwrap();
    let mut all = String::new();
    socket.read_to_string(&mut all).unwrap();
    all
}

fn signal(child: &Served) {
    assert!(Command::new("kill").args(["-TERM", &child.0.id().to_string()]).status().unwrap().success());
}

fn wait(mut child: Served, within: Duration) -> i32 {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.0.try_wait().unwrap() {
            return status.code().unwrap();
        }
        assert!(begin.elapsed() < within, "it runs on after {within:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_story_with_a_key_and_a_quiet_end() {
    let (child, at, mut stderr) = start(&["--api-key", "sesame", "--served-model-name", "a/b"]);
    let body = r#"{"model": "a/b", "messages": [{"role": "user", "content": "PRIVATE"}], "max_tokens": 8}"#;
    let post = "POST /v1/chat/completions HTTP/1.1\r\nContent-Type: application/json";
    assert!(ask(&at, post, body).starts_with("HTTP/1.1 401"));
    let head = format!("{post}\r\nAuthorization: Bearer sesame\r\nX-Request-Id: my-id.7");
    let answer = ask(&at, &head, body);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"completion_tokens\":8"), "{answer}");
    assert!(answer.contains("x-request-id: my-id.7"));
    let model = ask(&at, "GET /v1/models/a/b HTTP/1.1\r\nAuthorization: Bearer sesame", "");
    assert!(model.contains("\"id\":\"a/b\""), "{model}");
    signal(&child);
    assert_eq!(wait(child, Duration::from_secs(5)), 0);
    let mut log = String::new();
    stderr.read_to_string(&mut log).unwrap();
    assert!(log.contains("id=my-id.7 method=POST route=/v1/chat/completions status=200"), "{log}");
    assert!(log.contains("answer id=my-id.7 reason=length answers=1"), "{log}");
    assert!(!log.contains("PRIVATE") && !log.contains("sesame"), "{log}");
}

#[test]
fn a_second_signal_ends_at_once() {
    let (child, at, mut stderr) = start(&["--shutdown-timeout", "60", "--parallel", "1"]);
    let body = r#"{"model": "storyteller", "prompt": "Once", "max_tokens": 2000, "ignore_eos": true, "n": 16, "stream": true}"#;
    let mut socket = TcpStream::connect(&at).unwrap();
    let length = body.len();
    let head = "POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\nHost: localhost";
    socket.write_all(format!("{head}\r\nContent-Length: {length}\r\n\r\n{body}").as_bytes()).unwrap();
    let mut some = [0; 100];
    assert!(socket.read(&mut some).unwrap() > 0);
    signal(&child);
    let mut line = String::new();
    while !line.contains("stopping") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0);
    }
    std::thread::sleep(Duration::from_millis(100));
    signal(&child);
    wait(child, Duration::from_secs(3));
}

#[test]
fn an_open_bind_without_a_key_is_a_bad_argument() {
    let output = unimlx(&["--host", "0.0.0.0"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("API key"));
}
