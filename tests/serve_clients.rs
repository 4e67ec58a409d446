//! `unimlx serve` with the shipped model, as other people's clients see it: the official Python client, and a browser.
//!
//! What is missing on a developer's machine is said and left out; in CI (`CI=true`) it is a failure.
#![cfg(all(feature = "serve", feature = "cli", unix))]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

const KEY: &str = "sesame";

/// A process that does not outlive its test.
struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server of the shipped model, and its address.
fn serve() -> (Served, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unimlx"));
    for name in ["UNIMLX_MODEL", "UNIMLX_KV", "UNIMLX_LOG", "UNIMLX_HOST", "UNIMLX_PORT"] {
        command.env_remove(name);
    }
    command.args(["serve", "--device", "cpu", "--port", "0"]).env("UNIMLX_API_KEY", KEY);
    command.env("VK_DRIVER_FILES", "/nonexistent").stdin(Stdio::null()).stderr(Stdio::piped());
    let mut served = Served(command.spawn().unwrap());
    let mut lines = BufReader::new(served.0.stderr.take().unwrap()).lines();
    let line = lines.find_map(|line| Some(line.unwrap().split_once("http://")?.1.trim().to_owned()));
    // The log must go on, or the server waits for somebody who reads it.
    std::thread::spawn(move || lines.for_each(drop));
    (served, format!("http://{}", line.expect("it ended")))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Why something cannot be tested here; that must not pass unseen in CI.
fn left_out(why: &str) {
    assert!(std::env::var_os("CI").is_none_or(|ci| ci.is_empty() || ci == "false"), "CI needs it: {why}");
    eprintln!("left out: {why}");
}

/// A Python with the packages that the clients need, in `target/`; made once.
fn python() -> Result<PathBuf, String> {
    static MADE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    MADE.get_or_init(make_python).clone()
}

fn make_python() -> Result<PathBuf, String> {
    let wanted = root().join("tests/clients/requirements.txt");
    let folder = root().join("target/clients");
    let (python, stamp) = (folder.join("bin/python"), folder.join("requirements.txt"));
    let text = std::fs::read(&wanted).unwrap();
    if std::fs::read(&stamp).is_ok_and(|had| had == text) {
        return Ok(python);
    }
    let run = |command: &mut Command| match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr))),
        Err(e) => Err(format!("{command:?}: {e}")),
    };
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
    run(Command::new(&python).args(pip).arg(&wanted))?;
    std::fs::write(stamp, text).unwrap();
    Ok(python)
}

#[test]
fn the_official_python_client() {
    let python = match python() {
        Ok(python) => python,
        Err(why) => return left_out(&why),
    };
    let (_server, at) = serve();
    let mut client = Command::new(python);
    client.arg(root().join("tests/clients/openai_client.py")).args([&format!("{at}/v1"), KEY]);
    for name in ["OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy"]
    {
        client.env_remove(name);
    }
    assert!(client.status().unwrap().success());
}

#[test]
fn the_manifests_are_what_kubernetes_takes() {
    let python = match python() {
        Ok(python) => python,
        Err(why) => return left_out(&why),
    };
    let folder = root().join("examples/scale/kubernetes");
    let files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    assert!(files.len() >= 3);
    let validate = python.with_file_name("kubernetes-validate");
    assert!(Command::new(validate).args(["--strict", "--quiet"]).args(files).status().unwrap().success());
}

#[test]
fn the_page_in_a_browser() {
    let found = |name: &str| Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success());
    if !found("chromedriver") || !found("python3") {
        return left_out("the chat page is tried with chromedriver, Chromium and python3");
    }
    let (_server, at) = serve();
    let shot = root().join("target/chat_page.png");
    let mut browser = Command::new("python3");
    browser.arg(root().join("tests/clients/chat_page.py")).args([&at, KEY]).arg(shot);
    assert!(browser.status().unwrap().success());
}
