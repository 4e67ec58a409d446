//! Random and mutated requests: whatever they ask, the server is not at fault. `UNIMLX_FUZZ=100000` sets how many.
#![cfg(feature = "serve")]

use axum::body::Body;
use axum::http::{Request, Response};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::time::Instant;
use tower::ServiceExt;
use unimlx::serve::{MockEngine, Script, router};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

fn app(answer: &str) -> axum::Router {
    router(MockEngine::new(Script { answer: Some(answer.to_owned()), ..Script::default() }).unwrap())
}

async fn send(app: &axum::Router, path: &str, body: String) -> Response<Body> {
    let request = Request::post(path).body(Body::from(body)).unwrap();
    app.clone().oneshot(request).await.unwrap()
}

async fn text(response: Response<Body>) -> String {
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        prop::sample::select(vec!["user", "text", "mock", "function", "auto", "json_schema"])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((field(), inner), 0..5).prop_map(|m| m.into_iter().collect()),
        ]
    })
}

fn field() -> impl Strategy<Value = String> {
    let known = vec![
        "model",
        "messages",
        "prompt",
        "input",
        "role",
        "content",
        "type",
        "text",
        "stream",
        "stop",
        "n",
        "seed",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "max_tokens",
        "logprobs",
        "top_logprobs",
        "logit_bias",
        "tools",
        "stream_options",
        "include_usage",
        "response_format",
        "tokens",
        "echo",
        "encoding_format",
        "pooling",
        "chat_template_kwargs",
        "stop_token_ids",
        "ignore_eos",
        "instructions",
        "max_output_tokens",
        "metadata",
        "repetition_penalty",
        "presence_penalty",
        "continue_final_message",
        "add_generation_prompt",
        "name",
        "tool_choice",
        "parallel_tool_calls",
        "tool_calls",
        "tool_call_id",
        "function",
        "parameters",
        "properties",
        "strict",
        "json_schema",
        "schema",
        "regex",
        "format",
        "arguments",
        "reasoning_content",
        "logprobs",
        "max_completion_tokens",
    ];
    prop_oneof![4 => prop::sample::select(known).prop_map(str::to_owned), 1 => ".{0,9}"]
}

/// Requests of every route that are fine.
fn good() -> Vec<(&'static str, Value)> {
    let function = json!({ "name": "f", "description": "d", "parameters": { "type": "object",
        "properties": { "a": { "type": "integer", "minimum": 1 } }, "required": ["a"] } });
    let call =
        json!({ "id": "c", "type": "function", "function": { "name": "f", "arguments": "{\"a\": 1}" } });
    let schema = json!({ "type": "object", "properties": { "a": { "enum": [1, "b"] } }, "required": ["a"] });
    vec![
        (
            CHAT,
            json!({ "model": "mock", "messages": [{ "role": "user", "content": "hi" }], "max_tokens": 3 }),
        ),
        (
            CHAT,
            json!({ "model": "mock", "max_tokens": 3, "tools": [{ "type": "function", "function": function }],
                "tool_choice": "auto", "stream": true, "messages": [{ "role": "user", "content": "hi" },
                    { "role": "assistant", "content": null, "tool_calls": [call] },
                    { "role": "tool", "tool_call_id": "c", "content": [{ "type": "text", "text": "x" }] }] }),
        ),
        (
            TEXT,
            json!({ "model": "mock", "prompt": ["hi", [1, 2]], "max_tokens": 3, "logprobs": 1, "stop": ["x"],
                "stream": true, "stream_options": { "include_usage": true }, "logit_bias": { "5": 1 } }),
        ),
        (
            CHAT,
            json!({ "model": "mock", "messages": [{ "role": "user", "content": "hi" }], "max_tokens": 3,
                "response_format": { "type": "json_schema", "json_schema": { "name": "s", "schema": schema } } }),
        ),
        ("/v1/responses", json!({ "model": "mock", "input": "hi", "max_output_tokens": 3 })),
        (
            "/v1/responses",
            json!({ "model": "mock", "max_output_tokens": 3, "instructions": "x", "input": [
                { "role": "user", "content": [{ "type": "input_text", "text": "x" }] },
                { "type": "function_call", "call_id": "c", "name": "f", "arguments": "{}" },
                { "type": "function_call_output", "call_id": "c", "output": "x" }],
                "tools": [{ "type": "function", "name": "f", "parameters": schema }],
                "text": { "format": { "type": "text" } } }),
        ),
        ("/v1/embeddings", json!({ "model": "mock", "input": ["hi", "ho"] })),
        ("/tokenize", json!({ "prompt": "hi" })),
        ("/detokenize", json!({ "tokens": [104] })),
    ]
}

/// Puts a value into one of the objects within a value, or in the place of one of its lists' items.
fn put(value: &mut Value, at: usize, key: &str, new: Value) {
    fn places(value: &Value, path: &str, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                found.push(path.to_owned());
                map.iter().for_each(|(key, value)| places(value, &format!("{path}/{key}"), found));
            }
            Value::Array(list) => {
                found.push(path.to_owned());
                list.iter().enumerate().for_each(|(i, value)| places(value, &format!("{path}/{i}"), found));
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    places(value, "", &mut found);
    match value.pointer_mut(&found[at % found.len()]) {
        Some(Value::Object(map)) => drop(map.insert(key.to_owned(), new)),
        Some(Value::Array(list)) if !list.is_empty() => {
            let i = at % list.len();
            list[i] = new;
        }
        _ => {}
    }
}

/// A good request with some parts replaced, anywhere in it.
fn mutated() -> impl Strategy<Value = (&'static str, Value)> {
    let changes = prop::collection::vec((0..64usize, field(), any_json()), 0..4);
    (prop::sample::select(good()), changes).prop_map(|((path, mut body), changes)| {
        changes.into_iter().for_each(|(at, key, value)| put(&mut body, at, &key, value));
        (path, body)
    })
}

#[tokio::test]
async fn good_requests_are_good() {
    let app = app("a");
    for (path, body) in good() {
        let response = send(&app, path, body.to_string()).await;
        let status = response.status();
        let kept = body.get("response_format").is_some();
        // The mock does not keep to the form: it says so.
        assert_eq!(status, if kept { 400 } else { 200 }, "{path} {body}: {}", text(response).await);
    }
}

#[test]
fn no_request_is_the_servers_fault() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let app = app("Hé!");
    let cases = std::env::var("UNIMLX_FUZZ").ok().and_then(|n| n.parse().ok()).unwrap_or(4000);
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let counts = std::cell::RefCell::new(std::collections::BTreeMap::<u16, usize>::new());
    let begin = Instant::now();
    let outcome = runner.run(&mutated(), |(path, body)| {
        runtime.block_on(async {
            let response = send(&app, path, body.to_string()).await;
            let status = response.status().as_u16();
            *counts.borrow_mut().entry(status).or_default() += 1;
            prop_assert!(status < 500, "{status}: {path} {body}");
            let answer = text(response).await;
            if status != 200 {
                let error: Value = serde_json::from_str(&answer).unwrap();
                prop_assert!(error["error"]["message"].is_string(), "{answer}");
            } else if answer.contains("\"error\":{") {
                // A stream has begun before the mock is found not to keep to a form.
                prop_assert!(answer.contains("does not have the form"), "{path} {body}: {answer}");
            }
            Ok(())
        })
    });
    outcome.unwrap();
    println!("{cases} requests in {:?}, by status: {:?}", begin.elapsed(), counts.borrow());
    // It still works.
    let (_, body) = good().swap_remove(0);
    assert_eq!(runtime.block_on(send(&app, CHAT, body.to_string())).status(), 200);
}
