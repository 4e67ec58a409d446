//! What the API says to requests, good and bad, over the mock engine and without a port.
#![cfg(feature = "serve")]

use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;
use tower::ServiceExt;
use unimlx::serve::{MockEngine, Options, Script, router_with};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

fn engine(answer: &str) -> MockEngine {
    MockEngine::new(Script { answer: Some(answer.to_owned()), ..Script::default() }).unwrap()
}

fn app(answer: &str) -> axum::Router {
    router_with(Arc::new(engine(answer)), Options::default())
}

async fn send(app: &axum::Router, path: &str, body: impl Into<Body>) -> Response<Body> {
    let request = Request::post(path).header("content-type", "application/json").body(body.into()).unwrap();
    app.clone().oneshot(request).await.unwrap()
}

async fn text(response: Response<Body>) -> String {
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

async fn ask(app: &axum::Router, path: &str, body: &Value) -> (StatusCode, Value) {
    let response = send(app, path, body.to_string()).await;
    let status = response.status();
    (status, serde_json::from_str(&text(response).await).unwrap())
}

/// The error's four keys are there, with these values.
fn check_error(body: &Value, param: Option<&str>, code: &str) {
    let error = body["error"].as_object().unwrap_or_else(|| panic!("{body}"));
    for key in ["message", "type", "param", "code"] {
        assert!(error.contains_key(key), "{body}");
    }
    assert_eq!((error["param"].as_str(), error["code"].as_str()), (param, Some(code)), "{body}");
}

fn chat(more: Value) -> Value {
    let mut body = json!({ "model": "mock", "messages": [{ "role": "user", "content": "hi" }] });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// The `data:` objects of a stream, which ends as it should.
fn events(text: &str) -> Vec<Value> {
    let mut lines: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("data: ")).collect();
    assert_eq!(lines.pop(), Some("[DONE]"));
    lines.iter().map(|l| serde_json::from_str(l).unwrap()).collect()
}

#[tokio::test]
async fn a_chat_has_openais_shape() {
    let app = app("Grüße 👩‍🚀!");
    let (status, body) = ask(&app, CHAT, &chat(json!({ "n": 2 }))).await;
    assert_eq!(status, 200);
    assert_eq!(body["object"], "chat.completion");
    for (i, choice) in body["choices"].as_array().unwrap().iter().enumerate() {
        let message = json!({ "role": "assistant", "content": "Grüße 👩‍🚀!", "refusal": null });
        assert_eq!((&choice["message"], &choice["index"]), (&message, &json!(i)));
        assert_eq!(choice["finish_reason"], "stop");
    }
    let (prompt, answer) = ("user: hi\n".len(), 2 * "Grüße 👩‍🚀!".len());
    assert_eq!(body["usage"]["prompt_tokens"], prompt);
    assert_eq!(body["usage"]["completion_tokens"], answer);
    assert_eq!(body["usage"]["total_tokens"], prompt + answer);
}

#[tokio::test]
async fn a_stream_says_what_the_whole_says() {
    for (answer, stop) in [
        ("Grüße 👩‍🚀 und mehr", json!(null)),
        ("one ## two ### three", json!("###")),
        ("abc\nUser: x", json!(["\nUser:", "zz"])),
        ("aaaab", json!(["aab"])),
        ("", json!(null)),
        ("end #", json!("##")),
    ] {
        let app = app(answer);
        let more = json!({ "stop": stop, "logprobs": true, "top_logprobs": 1 });
        let (_, whole) = ask(&app, CHAT, &chat(more.clone())).await;
        let choice = &whole["choices"][0];
        let content = choice["message"]["content"].as_str().unwrap();
        let mut streamed = more;
        streamed["stream"] = json!(true);
        streamed["stream_options"] = json!({ "include_usage": true });
        let response = send(&app, CHAT, chat(streamed).to_string()).await;
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let events = events(&text(response).await);
        let deltas = || events.iter().filter_map(|e| e["choices"].get(0));
        let all: String = deltas().filter_map(|c| c["delta"]["content"].as_str()).collect();
        assert_eq!(all, content);
        assert_eq!(events[0]["choices"][0]["delta"], json!({ "role": "assistant", "content": "" }));
        let reasons: Vec<_> = deltas().filter(|c| !c["finish_reason"].is_null()).collect();
        assert_eq!(reasons.len(), 1);
        assert_eq!(reasons[0]["finish_reason"], choice["finish_reason"]);
        let last = events.last().unwrap();
        assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &whole["usage"]));
        assert!(events.iter().all(|e| e["id"] == events[0]["id"]));
        // The texts of the tokens are the text.
        let spoken = |list: &Value| -> String {
            list.as_array().into_iter().flatten().map(|t| t["token"].as_str().unwrap()).collect()
        };
        assert_eq!(spoken(&choice["logprobs"]["content"]), content);
        let pieces: String = deltas().map(|c| spoken(&c["logprobs"]["content"])).collect();
        assert_eq!(pieces, content);
        let end = match stop {
            Value::Null => answer,
            Value::String(s) => answer.split(s.as_str()).next().unwrap(),
            _ if answer == "aaaab" => "aa",
            _ => "abc",
        };
        assert_eq!(content, end);
    }
}

#[tokio::test]
async fn completions_take_text_and_tokens() {
    let app = app("abc");
    let body = json!({ "model": "mock", "prompt": ["x", "yz"], "n": 2, "echo": true, "max_tokens": 2 });
    let (status, got) = ask(&app, TEXT, &body).await;
    assert_eq!(status, 200);
    let texts: Vec<_> =
        got["choices"].as_array().unwrap().iter().map(|c| c["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["xab", "xab", "yzab", "yzab"]);
    assert_eq!(got["choices"][3]["finish_reason"], "length");
    assert_eq!(got["usage"]["prompt_tokens"], 3);
    // The best of several: all are counted, and what they were chosen by is not shown unless it is wanted.
    let body = json!({ "model": "mock", "prompt": ["x", "yz"], "n": 2, "best_of": 3, "echo": true, "max_tokens": 2 });
    let (_, got) = ask(&app, TEXT, &body).await;
    let choices = got["choices"].as_array().unwrap();
    let seen: Vec<_> =
        choices.iter().map(|c| (c["index"].as_u64().unwrap(), c["text"].as_str().unwrap())).collect();
    assert_eq!(seen, [(0, "xab"), (1, "xab"), (2, "yzab"), (3, "yzab")]);
    assert!(
        choices.iter().all(|c| c["logprobs"].is_null()) && got["usage"]["completion_tokens"] == 12,
        "{got}"
    );
    for (more, code) in [
        (json!({ "n": 2, "best_of": 1 }), "invalid_value"),
        (json!({ "best_of": 129 }), "invalid_type"),
        (json!({ "best_of": 2, "stream": true }), "invalid_value"),
    ] {
        let mut body = json!({ "model": "mock", "prompt": "x" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, body) = ask(&app, TEXT, &body).await;
        assert_eq!(status, 400, "{more}");
        check_error(&body, Some("best_of"), code);
    }
    let body = json!({ "model": "mock", "prompt": [104, 105], "logprobs": 2 });
    let (_, got) = ask(&app, TEXT, &body).await;
    let logprobs = &got["choices"][0]["logprobs"];
    assert_eq!((&logprobs["tokens"], &logprobs["text_offset"]), (&json!(["a", "b", "c"]), &json!([0, 1, 2])));
    // The prompt's own probabilities, before those of the answer.
    let body = json!({ "model": "mock", "prompt": "hé", "logprobs": 1, "echo": true, "max_tokens": 1 });
    for stream in [false, true] {
        let mut body = body.clone();
        body["stream"] = json!(stream);
        let got = text(send(&app, TEXT, body.to_string()).await).await;
        let parts = if stream { events(&got) } else { vec![serde_json::from_str(&got).unwrap()] };
        let all = |key: &str| -> Vec<Value> {
            parts
                .iter()
                .filter_map(|p| p["choices"][0]["logprobs"][key].as_array())
                .flatten()
                .cloned()
                .collect()
        };
        assert_eq!(all("tokens"), ["h", "", "é", "a"], "{got}");
        assert_eq!(all("text_offset"), [0, 1, 1, 2]);
        assert_eq!(all("token_logprobs"), [json!(null), json!(-0.5), json!(-0.5), json!(-0.5)]);
        assert!(all("top_logprobs")[0].is_null() && all("top_logprobs")[3].is_object());
    }
    // As long as there is memory for all of them.
    let echoes = |n: usize| {
        json!({ "model": "mock", "prompt": vec!["y".repeat(4000); n], "logprobs": 20,
        "echo": true, "max_tokens": 0 })
    };
    let (status, body) = ask(&app, TEXT, &echoes(7)).await;
    assert_eq!(status, 400, "{}", body["error"]);
    check_error(&body, Some("prompt"), "invalid_value");
    assert_eq!(ask(&app, TEXT, &echoes(1)).await.0, 200);
    // The end goes with the last text where the answer is cut off, and comes by itself where it ends by itself.
    for (most, last) in [(2, ("b", "length")), (9, ("", "stop"))] {
        let body =
            json!({ "model": "mock", "prompt": "x", "max_tokens": most, "logprobs": 1, "stream": true });
        let events = events(&text(send(&app, TEXT, body.to_string()).await).await);
        let [before @ .., end] = &events[..] else { panic!() };
        assert!(before.iter().all(|e| e["choices"][0]["finish_reason"].is_null()), "{events:?}");
        assert_eq!(
            (&end["choices"][0]["text"], &end["choices"][0]["finish_reason"]),
            (&json!(last.0), &json!(last.1))
        );
    }
    for bad in [json!([]), json!([1.5]), json!([9999]), json!(["a", 3]), json!({}), json!(""), json!([[]])] {
        let (status, body) = ask(&app, TEXT, &json!({ "model": "mock", "prompt": bad })).await;
        assert_eq!(status, 400, "{bad}");
        check_error(&body, Some("prompt"), "invalid_value");
    }
}

#[tokio::test]
async fn every_parameter_is_honoured_or_refused_by_name() {
    let app = app("a");
    for more in [
        json!({ "temperature": 0.5, "top_p": 0, "top_k": -1, "min_p": 0.1, "seed": -3, "stop": null }),
        json!({ "presence_penalty": -2, "frequency_penalty": 2, "repetition_penalty": 1.1 }),
        json!({ "logit_bias": { "65": -100 }, "user": "x", "tools": [], "tool_choice": "none" }),
        json!({ "max_tokens": 5, "max_completion_tokens": 3, "response_format": { "type": "text" } }),
        json!({ "store": false, "service_tier": "auto", "modalities": ["text"], "metadata": null }),
        json!({ "n": 128, "verbosity": "medium", "prompt_cache_retention": "24h", "reasoning_effort": "none" }),
        json!({ "prediction": { "type": "content", "content": "a" }, "safety_identifier": "x", "tool_choice": null }),
        json!({ "messages": [{ "role": "user", "content": "a", "type": "text" },
            { "role": "assistant", "content": null, "refusal": "no", "annotations": [], "audio": null },
            { "role": "assistant", "content": [{ "type": "refusal", "refusal": "no" }] }] }),
    ] {
        let (status, body) = ask(&app, CHAT, &chat(more.clone())).await;
        assert_eq!(status, 200, "{more}: {body}");
    }
    for (more, param, code) in [
        (json!({ "temperature": 2.1 }), "temperature", "invalid_type"),
        (json!({ "temperature": "1" }), "temperature", "invalid_type"),
        (json!({ "top_p": -0.1 }), "top_p", "invalid_type"),
        (json!({ "n": 0 }), "n", "invalid_type"),
        (json!({ "n": 129 }), "n", "invalid_type"),
        (json!({ "user": 1 }), "user", "invalid_type"),
        (json!({ "reasoning_effort": "high" }), "reasoning_effort", "unsupported_parameter"),
        (json!({ "reasoning_effort": "much" }), "reasoning_effort", "invalid_value"),
        (json!({ "prompt_cache_retention": "1y" }), "prompt_cache_retention", "unsupported_parameter"),
        (
            json!({ "messages": [{ "role": "user", "content": "", "refusal": "no" }] }),
            "messages[0].refusal",
            "unsupported_parameter",
        ),
        (json!({ "seed": 1.5 }), "seed", "invalid_value"),
        (json!({ "max_tokens": -1 }), "max_tokens", "invalid_type"),
        (json!({ "stop": [1] }), "stop", "invalid_value"),
        (json!({ "stop": vec!["x"; 17] }), "stop", "invalid_value"),
        (json!({ "stop": "" }), "stop", "invalid_value"),
        (json!({ "logit_bias": { "foo": 0 } }), "logit_bias", "invalid_value"),
        (json!({ "logit_bias": { "1": 101 } }), "logit_bias", "invalid_value"),
        (json!({ "top_logprobs": 2 }), "top_logprobs", "invalid_value"),
        (json!({ "logprobs": true, "top_logprobs": 21 }), "top_logprobs", "invalid_type"),
        (json!({ "stream_options": {} }), "stream_options", "invalid_value"),
        (json!({ "tools": [{ "type": "function" }] }), "tools[0].function", "invalid_value"),
        (json!({ "response_format": "json" }), "response_format", "invalid_type"),
        (json!({ "response_format": { "type": "xml" } }), "response_format.type", "unsupported_parameter"),
        (
            json!({ "response_format": { "type": "json_schema", "json_schema": { "name": "a" } } }),
            "response_format.json_schema.schema",
            "missing_required_parameter",
        ),
        (
            json!({ "response_format": { "type": "json_schema",
                "json_schema": { "name": "a", "schema": { "type": "integer", "not": {} } } } }),
            "response_format.json_schema.schema",
            "invalid_value",
        ),
        (json!({ "store": true }), "store", "unsupported_parameter"),
        (json!({ "no_such_field": 1 }), "no_such_field", "unknown_parameter"),
        (json!({ "messages": [] }), "messages", "invalid_value"),
        (json!({ "messages": "x" }), "messages", "invalid_type"),
        (json!({ "messages": [{ "role": "x", "content": "" }] }), "messages[0].role", "invalid_value"),
        (json!({ "messages": [{ "role": "user" }] }), "messages[0].content", "missing_required_parameter"),
        (
            json!({ "messages": [{ "role": "user", "content": "", "x": 1 }] }),
            "messages[0].x",
            "unknown_parameter",
        ),
        (
            json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url" }] }] }),
            "messages[0].content[0].type",
            "unsupported_parameter",
        ),
        (
            json!({ "chat_template_kwargs": { "chat_template": "{{ 1 }}" } }),
            "chat_template_kwargs.chat_template",
            "unsupported_parameter",
        ),
    ] {
        let (status, body) = ask(&app, CHAT, &chat(more.clone())).await;
        assert_eq!(status, 400, "{more}: {body}");
        check_error(&body, Some(param), code);
    }
    let (status, body) = ask(&app, CHAT, &chat(json!({ "model": "../etc/passwd" }))).await;
    assert_eq!(status, 404);
    check_error(&body, Some("model"), "model_not_found");
}

#[tokio::test]
async fn a_prompt_that_is_too_long_names_both_lengths() {
    let app = app("x");
    for n in [4096, 4097, 40_000, 10_000_000] {
        let (status, body) = ask(&app, TEXT, &json!({ "model": "mock", "prompt": "y".repeat(n) })).await;
        assert_eq!(status, 400);
        check_error(&body, Some("prompt"), "context_length_exceeded");
        assert!(body["error"]["n_prompt_tokens"].as_u64().unwrap() >= 4096);
        assert_eq!(body["error"]["n_ctx"], 4096);
    }
    let (status, body) = ask(&app, TEXT, &json!({ "model": "mock", "prompt": "y".repeat(4095) })).await;
    assert_eq!((status.as_u16(), &body["usage"]["completion_tokens"]), (200, &json!(1)));
}

#[tokio::test]
async fn bodies_that_are_not_requests_are_refused_in_the_same_shape() {
    let app = app("x");
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for body in [&b"\xff\xfe{}"[..], b"", b"{", b"[]", b"null", b"\"x\"", deep.as_bytes()] {
        for path in [CHAT, TEXT, "/v1/responses", "/v1/embeddings", "/tokenize", "/detokenize"] {
            let response = send(&app, path, body.to_vec()).await;
            assert_eq!(response.status(), 400);
            let body: Value = serde_json::from_str(&text(response).await).unwrap();
            assert!(body["error"]["code"].is_string(), "{body}");
        }
    }
    let response = send(&app, CHAT, vec![b' '; 33 << 20]).await;
    assert_eq!(response.status(), 413);
    check_error(&serde_json::from_str(&text(response).await).unwrap(), None, "body_too_large");
    let request = Request::post(CHAT).header("content-type", "text/plain").body(Body::from("{}")).unwrap();
    assert_eq!(app.clone().oneshot(request).await.unwrap().status(), 415);
    let request = Request::get(CHAT).body(Body::empty()).unwrap();
    let response = app.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), 405);
    assert_eq!(response.headers()["allow"], "POST");
    let body: Value = serde_json::from_str(&text(response).await).unwrap();
    check_error(&body, None, "method_not_allowed");
    assert_eq!(body["error"]["type"], "invalid_request_error");
}

#[tokio::test]
async fn every_route_but_probes_wants_the_key() {
    let mut options = Options::default();
    options.api_keys = vec!["first".to_owned(), "secret-2".to_owned()];
    let app = router_with(Arc::new(engine("x")), options);
    let get = async |path: &str, header: (&str, &str)| {
        let request = Request::get(path).header(header.0, header.1).body(Body::empty()).unwrap();
        app.clone().oneshot(request).await.unwrap().status().as_u16()
    };
    for path in [
        "/v1/models",
        "/v1/models/mock",
        "/metrics",
        "/version",
        "/nothing",
        "/",
        CHAT,
        TEXT,
        "/tokenize",
        "/detokenize",
        "/v1/embeddings",
        "/v1/responses",
    ] {
        for wrong in ["", "Bearer", "Bearer secret-", "Bearer secret-22", "Basic secret-2", "secret-2"] {
            assert_eq!(get(path, ("authorization", wrong)).await, 401, "{path} with {wrong}");
        }
        assert_ne!(get(path, ("authorization", "Bearer secret-2")).await, 401, "{path}");
        assert_ne!(get(path, ("x-api-key", "first")).await, 401, "{path}");
    }
    for probe in ["/health", "/ready"] {
        assert_eq!(get(probe, ("x", "y")).await, 200);
    }
}

#[tokio::test]
async fn browsers_are_kept_out_unless_asked_in() {
    let mut options = Options::default();
    options.hosts = Some(vec!["localhost".to_owned(), "[::1]".to_owned()]);
    options.cors_origins = vec!["https://a.example".to_owned()];
    let app = router_with(Arc::new(engine("x")), options);
    let host = async |name: &str| {
        let request = Request::get("/v1/models").header("host", name).body(Body::empty()).unwrap();
        app.clone().oneshot(request).await.unwrap().status().as_u16()
    };
    for (name, status) in [
        ("localhost", 200),
        ("LOCALHOST:8080", 200),
        ("[::1]:80", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("", 403),
        ("localhost:x", 403),
    ] {
        assert_eq!(host(name).await, status, "{name}");
    }
    for (origin, allowed) in [("https://a.example", true), ("https://b.example", false), ("null", false)] {
        for method in ["GET", "OPTIONS"] {
            let request = Request::builder().method(method).uri("/v1/models").header("host", "localhost");
            let request = request.header("origin", origin).header("access-control-request-method", "POST");
            let request = request.header("access-control-request-headers", "authorization,x-stainless-lang");
            let response = app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
            let got = response.headers().get("access-control-allow-origin").map(|v| v.to_str().unwrap());
            assert_eq!(got, allowed.then_some(origin));
            let headers = response.headers().get("access-control-allow-headers");
            let wanted = (allowed && method == "OPTIONS").then_some("authorization,x-stainless-lang");
            assert_eq!(headers.map(|v| v.to_str().unwrap()), wanted);
            assert!(!response.headers().contains_key("access-control-allow-credentials"));
        }
    }
}

#[tokio::test]
async fn pages_from_elsewhere_cannot_make_the_server_work() {
    let mut options = Options::default();
    options.cors_origins = vec!["https://a.example".to_owned()];
    let engine = engine("x");
    let app = router_with(Arc::new(engine.clone()), options);
    for (origin, site, status) in [
        ("", "", 200),
        ("", "none", 200),
        ("http://localhost:8080", "same-origin", 200),
        ("http://LOCALHOST:8080", "", 200),
        ("https://a.example", "cross-site", 200),
        // A proxy may change the host.
        ("https://public.example", "same-origin", 200),
        ("https://b.example", "cross-site", 403),
        ("https://b.example", "", 403),
        ("http://localhost:3000", "same-site", 403),
        ("http://localhost", "", 403),
        ("null", "", 403),
        ("", "cross-site", 403),
    ] {
        // What a page can send without asking first.
        let mut request = Request::post(TEXT).header("host", "localhost:8080");
        for (name, value) in [("origin", origin), ("sec-fetch-site", site)] {
            request = if value.is_empty() { request } else { request.header(name, value) };
        }
        let body = Body::from(r#"{"model": "mock", "prompt": "x"}"#);
        let before = engine.generated();
        let response = app.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        assert_eq!(response.status(), status, "{origin:?} {site:?}");
        if status == 403 {
            assert_eq!(engine.generated(), before);
            let body: Value = serde_json::from_str(&text(response).await).unwrap();
            check_error(&body, None, "origin_not_allowed");
        }
    }
}

#[tokio::test]
async fn other_routes_answer() {
    let app = app("Hi!");
    let (_, body) = ask(&app, "/tokenize", &json!({ "prompt": "hé" })).await;
    assert_eq!((&body["tokens"], &body["count"]), (&json!([104, 195, 169]), &json!(3)));
    let (_, body) = ask(&app, "/detokenize", &json!({ "tokens": [104, 195, 169] })).await;
    assert_eq!(body["prompt"], "hé");
    let embed = json!({ "model": "mock", "input": ["abc", "xyz"], "encoding_format": "base64" });
    let (_, base64) = ask(&app, "/v1/embeddings", &embed).await;
    let (_, float) = ask(&app, "/v1/embeddings", &json!({ "model": "mock", "input": "abc" })).await;
    assert_eq!(base64["data"].as_array().unwrap().len(), 2);
    let floats: Vec<f32> = serde_json::from_value(float["data"][0]["embedding"].clone()).unwrap();
    let short = json!({ "model": "mock", "input": "abc", "dimensions": 2 });
    let (_, short) = ask(&app, "/v1/embeddings", &short).await;
    let short: Vec<f32> = serde_json::from_value(short["data"][0]["embedding"].clone()).unwrap();
    assert!(short.len() == 2 && (short.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-6);
    let long = json!({ "model": "mock", "input": "abc", "dimensions": 9 });
    let (status, body) = ask(&app, "/v1/embeddings", &long).await;
    assert_eq!(status, 400);
    check_error(&body, Some("dimensions"), "invalid_value");
    let many = json!({ "model": "mock", "input": vec!["y".repeat(4000); 80] });
    let (status, body) = ask(&app, "/v1/embeddings", &many).await;
    assert_eq!(status, 400);
    check_error(&body, Some("input"), "invalid_value");
    let decoded = base64_bytes(base64["data"][0]["embedding"].as_str().unwrap());
    let bytes: Vec<u8> = floats.iter().flat_map(|x| x.to_le_bytes()).collect();
    assert_eq!(decoded, bytes);
    let (status, body) = ask(&app, "/v1/responses", &json!({ "model": "mock", "input": "x" })).await;
    assert_eq!(status, 200);
    assert_eq!(body["output"][0]["content"][0]["text"], "Hi!");
    assert_eq!(body["status"], "completed");
    let input = json!([{ "role": "user", "content": [{ "type": "input_text", "text": "x" }] }]);
    let request = json!({ "model": "mock", "input": input, "stream": true, "instructions": "be brief" });
    let streamed = text(send(&app, "/v1/responses", request.to_string()).await).await;
    let names: Vec<&str> = streamed.lines().filter_map(|l| l.strip_prefix("event: response.")).collect();
    assert_eq!(names.first(), Some(&"created"));
    assert_eq!(names.last(), Some(&"completed"));
    assert_eq!(names.iter().filter(|n| **n == "output_text.delta").count(), 3);
    let request = Request::get("/metrics").body(Body::empty()).unwrap();
    let metrics = text(app.clone().oneshot(request).await.unwrap()).await;
    assert!(metrics.contains("vllm:num_requests_running{model_name=\"mock\"} 0\n"), "{metrics}");
    assert!(metrics.contains("vllm:request_success_total{model_name=\"mock\",finished_reason=\"stop\"} 2\n"));
}

fn base64_bytes(text: &str) -> Vec<u8> {
    const SIGNS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bits = 0u32;
    let mut out = Vec::new();
    for (i, sign) in text.bytes().filter(|b| *b != b'=').enumerate() {
        bits = bits << 6 | SIGNS.iter().position(|s| *s == sign).unwrap() as u32;
        if i % 4 > 0 {
            out.push((bits >> (6 - 2 * (i % 4))) as u8);
        }
    }
    out
}

#[tokio::test]
async fn an_engine_that_fails_says_so() {
    let script = Script { answer: Some("abcdef".into()), fails_after: Some(3), ..Script::default() };
    let app = router_with(Arc::new(MockEngine::new(script).unwrap()), Options::default());
    let response = send(&app, CHAT, chat(json!({})).to_string()).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["x-should-retry"]),
        (500, &"false".parse().unwrap())
    );
    let streamed = text(send(&app, CHAT, chat(json!({ "stream": true })).to_string()).await).await;
    let events = events(&streamed);
    check_error(events.last().unwrap(), None, "engine_error");
}
