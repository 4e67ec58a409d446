//! `/v1/responses` as clients of OpenAI's know it: the shape of responses, the order of events, what they say
//! when the engine fails, and the fields that agents send.
#![cfg(feature = "serve")]

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};
use std::path::Path;
use tower::ServiceExt;
use unimlx::serve::{MockEngine, Options, Script, router, router_with};

/// A server whose model says this, with the template of a published model.
fn app(name: Option<&str>, script: Script) -> axum::Router {
    let template = name.map(|name| {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/chat_templates/{name}.json"));
        let file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        file["template"].as_str().unwrap().to_owned()
    });
    router(MockEngine::new(Script { template, context_length: 1 << 16, ..script }).unwrap())
}

fn says(answer: &str) -> Script {
    Script { answer: Some(answer.to_owned()), ..Script::default() }
}

async fn post(app: &axum::Router, more: Value) -> (u16, String) {
    let mut body = json!({ "model": "mock", "input": "hi" });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let request = Request::post("/v1/responses").body(Body::from(body.to_string())).unwrap();
    let response = app.clone().oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

async fn ask(app: &axum::Router, more: Value) -> (u16, Value) {
    let (status, text) = post(app, more).await;
    (status, serde_json::from_str(&text).unwrap())
}

/// The events of a stream, whose names are their types and whose numbers count them.
async fn events(app: &axum::Router, mut more: Value) -> Vec<Value> {
    more["stream"] = json!(true);
    let (status, text) = post(app, more).await;
    assert_eq!(status, 200, "{text}");
    let mut events = Vec::new();
    for event in text.split("\n\n").filter(|event| !event.is_empty()) {
        let (name, data) = event.split_once('\n').unwrap();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(name.strip_prefix("event: ").unwrap(), data["type"]);
        assert_eq!(data["sequence_number"], events.len());
        events.push(data);
    }
    events
}

fn kinds(events: &[Value]) -> Vec<&str> {
    let mut kinds: Vec<&str> = events.iter().map(|e| e["type"].as_str().unwrap()).collect();
    kinds.dedup();
    kinds
}

#[tokio::test]
async fn items_begin_grow_and_end_in_order() {
    let answer =
        "<think>\nhm\n</think>\n\nI look.\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
    let app = app(Some("qwen3"), says(answer));
    let tools = json!([{ "type": "function", "name": "now", "parameters": null, "strict": null }]);
    let events = events(&app, json!({ "tools": tools })).await;
    assert_eq!(
        kinds(&events).iter().map(|kind| kind.strip_prefix("response.").unwrap()).collect::<Vec<_>>(),
        [
            "created",
            "in_progress",
            "output_item.added",
            "content_part.added",
            "reasoning_text.delta",
            "reasoning_text.done",
            "content_part.done",
            "output_item.done",
            "output_item.added",
            "content_part.added",
            "output_text.delta",
            "output_text.done",
            "content_part.done",
            "output_item.done",
            "output_item.added",
            "function_call_arguments.delta",
            "function_call_arguments.done",
            "output_item.done",
            "completed",
        ]
    );
    let mut open = Value::Null;
    for event in &events {
        match event["type"].as_str().unwrap() {
            "response.output_item.added" => open = event.clone(),
            "response.output_item.done" => assert_eq!(event["item"]["id"], open["item"]["id"]),
            kind if event.get("item_id").is_some() => {
                let place = |e: &Value, id: &Value| (id.clone(), e["output_index"].clone());
                assert_eq!(place(event, &event["item_id"]), place(&open, &open["item"]["id"]), "{kind}");
            }
            _ => {}
        }
    }
    let usage = &events.last().unwrap()["response"]["usage"];
    assert_eq!(usage["input_tokens_details"], json!({ "cached_tokens": 0, "cache_write_tokens": 0 }));
    let ended = self::events(&app, json!({ "max_output_tokens": 30 })).await;
    let last = &ended.last().unwrap();
    assert_eq!(
        (&last["type"], &last["response"]["status"]),
        (&json!("response.incomplete"), &json!("incomplete"))
    );
    assert_eq!(last["response"]["incomplete_details"]["reason"], "max_output_tokens");
}

#[tokio::test]
async fn a_stream_that_fails_ends_with_a_response_that_has_failed() {
    let script = Script { fails_after: Some(3), ..says("abcdef") };
    let events = events(&app(None, script), json!({})).await;
    let [.., error, failed] = &events[..] else { panic!("{events:?}") };
    assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!("engine_error")));
    assert!(error["message"].is_string() && error["error"]["message"] == error["message"], "{error}");
    let response = &failed["response"];
    assert_eq!((&failed["type"], &response["status"]), (&json!("response.failed"), &json!("failed")));
    assert_eq!(
        (&response["id"], &response["error"]["code"]),
        (&events[0]["response"]["id"], &json!("server_error"))
    );
    assert_eq!(response["output"][0]["content"][0]["text"], "abc");
}

#[tokio::test]
async fn probabilities_are_those_of_the_text() {
    let app = app(Some("qwen3"), says("<think>\nhm\n</think>\n\nJa, hé."));
    let spoken = |list: &Value| -> String {
        list.as_array().unwrap().iter().map(|token| token["token"].as_str().unwrap()).collect()
    };
    for more in [
        json!({ "include": ["message.output_text.logprobs"], "top_logprobs": 2 }),
        json!({ "top_logprobs": 2 }),
    ] {
        let (_, whole) = ask(&app, more.clone()).await;
        assert_eq!(whole["top_logprobs"], 2);
        let logprobs = &whole["output"][1]["content"][0]["logprobs"];
        assert_eq!(spoken(logprobs), "Ja, hé.", "{whole}");
        assert_eq!(logprobs[0]["top_logprobs"].as_array().unwrap().len(), 2);
        assert!(logprobs[0]["bytes"].is_array() && logprobs[0]["logprob"].is_number());
        let events = events(&app, more).await;
        for kind in ["response.output_text.delta", "response.output_text.done"] {
            let of_kind = events.iter().filter(|e| e["type"] == kind);
            assert_eq!(of_kind.map(|e| spoken(&e["logprobs"])).collect::<String>(), "Ja, hé.");
        }
    }
    let (_, whole) = ask(&app, json!({ "include": ["message.output_text.logprobs"] })).await;
    assert_eq!(whole["output"][1]["content"][0]["logprobs"][0]["top_logprobs"], json!([]));
    let (_, whole) = ask(&app, json!({})).await;
    assert_eq!(whole["output"][1]["content"][0]["logprobs"], json!([]));
}

#[tokio::test]
async fn what_agents_send_is_taken() {
    let app = app(Some("qwen3"), says("Yes."));
    let tool = json!({ "type": "function", "name": "f", "description": "d", "strict": false,
        "parameters": { "type": "object", "properties": {} }, "output_schema": null });
    for more in [
        json!({ "instructions": "Be brief.", "tools": [tool], "tool_choice": "auto", "parallel_tool_calls": false,
            "store": false, "include": ["reasoning.encrypted_content"], "prompt_cache_key": "a",
            "text": { "verbosity": "medium" }, "reasoning": { "effort": "high", "summary": "auto" } }),
        json!({ "reasoning": { "effort": null, "summary": null }, "prompt_cache_retention": "24h",
            "truncation": "disabled", "service_tier": "auto", "user": "u", "metadata": { "a": "b" } }),
        json!({ "input": [
            { "type": "message", "role": "developer", "content": "d" },
            { "role": "user", "content": [{ "type": "input_text", "text": "a" }] },
            { "type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": null },
            { "type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
                "content": [{ "type": "output_text", "text": "b", "annotations": [], "logprobs": [] }] },
            { "role": "assistant", "content": [{ "type": "refusal", "refusal": "no" }] },
            { "type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": "{}" },
            { "type": "function_call_output", "call_id": "call_1", "output": [{ "type": "input_text", "text": "c" }] },
        ] }),
    ] {
        let (status, body) = ask(&app, more.clone()).await;
        assert_eq!(status, 200, "{more}: {body}");
    }
    for (more, param) in [
        (json!({ "previous_response_id": "resp_1" }), "previous_response_id"),
        (json!({ "include": ["file_search_call.results"] }), "include"),
        (json!({ "top_logprobs": 21 }), "top_logprobs"),
        (json!({ "reasoning": { "effort": "much" } }), "reasoning.effort"),
        (json!({ "reasoning": { "summary": "detailed" } }), "reasoning.summary"),
        (json!({ "input": [{ "type": "item_reference", "id": "msg_1" }] }), "input[0].id"),
        (json!({ "truncation": "auto" }), "truncation"),
    ] {
        let (status, body) = ask(&app, more.clone()).await;
        assert_eq!((status, &body["error"]["param"]), (400, &json!(param)), "{more}: {body}");
    }
}

#[tokio::test]
async fn only_allowed_tools_are_called() {
    let call =
        |name: &str| format!("<tool_call>\n{{\"name\": \"{name}\", \"arguments\": {{}}}}\n</tool_call>");
    let tools = json!([{ "type": "function", "name": "one" }, { "type": "function", "name": "two" }]);
    let allowed = |mode: &str, name: &str| json!({ "type": "allowed_tools", "mode": mode, "tools": [{ "type": "function", "name": name }] });
    for (answer, mode, status, kind) in [
        (call("one"), "auto", 200, "function_call"),
        (call("two"), "auto", 200, "message"),
        (call("one"), "required", 200, "function_call"),
        (call("two"), "required", 400, ""),
        ("No.".to_owned(), "required", 400, ""),
    ] {
        let app = app(Some("qwen3"), says(&answer));
        let choice = allowed(mode, "one");
        let (got, body) = ask(&app, json!({ "tools": tools, "tool_choice": choice })).await;
        assert_eq!(got, status, "{answer} {mode}: {body}");
        if status == 200 {
            assert_eq!((&body["output"][0]["type"], &body["tool_choice"]), (&json!(kind), &choice));
            assert_eq!(body["tools"].as_array().unwrap().len(), 2);
        }
    }
    // The template sees no others.
    let app = app(Some("qwen3"), Script::default());
    let (_, body) = ask(&app, json!({ "tools": tools, "tool_choice": allowed("auto", "one") })).await;
    let prompt = body["output"][0]["content"][0]["text"].as_str().unwrap();
    assert!(prompt.contains("\"one\"") && !prompt.contains("\"two\""), "{prompt}");
    for choice in [
        allowed("auto", "three"),
        allowed("sometimes", "one"),
        json!({ "type": "allowed_tools", "mode": "auto", "tools": [] }),
        json!({ "type": "allowed_tools", "mode": "auto" }),
        json!({ "type": "allowed_tools", "function": 5 }),
        json!({ "type": "allowed_tools", "function": { "tools": 5 } }),
        json!({ "type": "function", "function": 5 }),
    ] {
        let (status, body) = ask(&app, json!({ "tools": tools, "tool_choice": choice })).await;
        assert_eq!((status, &body["error"]["param"]), (400, &json!("tool_choice")), "{choice}: {body}");
    }
}

/// The prompt of a response, which the scripted engine says back.
fn prompt(body: &Value) -> &str {
    body["output"][0]["content"][0]["text"].as_str().unwrap()
}

async fn send(app: &axum::Router, method: &str, path: &str, key: &str, body: Value) -> (u16, Value) {
    let mut request = Request::builder().method(method).uri(path);
    if !key.is_empty() {
        request = request.header("Authorization", format!("Bearer {key}"));
    }
    let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
    let response = app.clone().oneshot(request.body(body).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, serde_json::from_slice(&bytes).unwrap())
}

#[tokio::test]
async fn responses_go_on_from_earlier_ones() {
    let app = app(None, Script::default());
    let (_, first) = ask(&app, json!({ "instructions": "Be brief.", "input": "one" })).await;
    assert_eq!(first["store"], true);
    let said = &first["output"][0];
    // By the response, by its item, and by all that was said: the same prompt. Instructions are a request's own.
    let (_, by_id) = ask(&app, json!({ "previous_response_id": first["id"], "input": "two" })).await;
    assert_eq!(by_id["previous_response_id"], first["id"]);
    let one = json!({ "role": "user", "content": "one" });
    let two = json!({ "role": "user", "content": [{ "type": "input_text", "text": "two" }] });
    for reference in
        [json!({ "type": "item_reference", "id": said["id"] }), json!({ "id": said["id"] }), said.clone()]
    {
        let (status, body) = ask(&app, json!({ "input": [one, reference, two] })).await;
        assert_eq!(status, 200, "{body}");
        assert_eq!(prompt(&body), prompt(&by_id));
    }
    assert!(prompt(&by_id).contains("two") && !prompt(&by_id).starts_with("system"), "{by_id}");
    // A streamed one is kept before its client knows that it has ended, and goes on from both.
    let events = events(&app, json!({ "previous_response_id": by_id["id"], "input": "three" })).await;
    let third = &events.last().unwrap()["response"];
    let (status, kept) =
        send(&app, "GET", &format!("/v1/responses/{}", third["id"].as_str().unwrap()), "", Value::Null).await;
    assert_eq!((status, &kept), (200, third));
    for word in ["one", "two", "three"] {
        assert!(prompt(third).contains(word));
    }
}

#[tokio::test]
async fn a_call_that_was_cut_off_does_not_end_the_conversation() {
    let tools = json!([{ "type": "function", "name": "now", "parameters": null, "strict": null }]);
    for (arguments, most) in [("{\"zone\": \"Asia/Tokyo\"}", 55), ("{\"zone\": Tokyo}", 1000)] {
        let call = format!("<tool_call>\n{{\"name\": \"now\", \"arguments\": {arguments}}}\n</tool_call>");
        let app = app(Some("qwen3"), says(&call));
        let (_, cut) = ask(&app, json!({ "tools": tools, "max_output_tokens": most })).await;
        let item = &cut["output"][0];
        let text = item["arguments"].as_str().unwrap_or_else(|| panic!("{cut}"));
        assert!(text.starts_with("{\"zone") && serde_json::from_str::<Value>(text).is_err(), "{text}");
        let one = json!({ "role": "user", "content": "hi" });
        for input in [
            json!({ "previous_response_id": cut["id"], "input": "go on" }),
            json!({ "input": [one, { "type": "item_reference", "id": item["id"] }, one] }),
        ] {
            let (status, body) = ask(&app, input).await;
            assert_eq!(status, 200, "{body}");
        }
        // Who sends it back as a call learns what is wrong with it.
        let (status, body) = ask(&app, json!({ "input": [item] })).await;
        assert_eq!(
            (status, &body["error"]["param"]),
            (400, &json!("input[0].tool_calls[0].function.arguments"))
        );
    }
}

#[tokio::test]
async fn responses_are_their_callers_and_can_be_forgotten() {
    let app = app(None, says("Yes."));
    let body = json!({ "model": "mock", "input": "hi" });
    let (_, own) = send(&app, "POST", "/v1/responses", "a", body.clone()).await;
    let path = format!("/v1/responses/{}", own["id"].as_str().unwrap());
    let mut on = body.clone();
    on["previous_response_id"] = own["id"].clone();
    for (method, path, body, wrong, right) in [
        ("GET", &path, Value::Null, 404, 200),
        ("POST", &"/v1/responses".to_owned(), on, 400, 200),
        ("DELETE", &path, Value::Null, 404, 200),
    ] {
        let (status, other) = send(&app, method, path, "b", body.clone()).await;
        assert_eq!(status, wrong, "{method}: {other}");
        let (status, own) = send(&app, method, path, "a", body).await;
        assert_eq!(status, right, "{method}: {own}");
    }
    for method in ["GET", "DELETE"] {
        assert_eq!(send(&app, method, &path, "a", Value::Null).await.0, 404);
    }
    let mut body = body;
    body["store"] = json!(false);
    let (_, unkept) = send(&app, "POST", "/v1/responses", "a", body).await;
    let path = format!("/v1/responses/{}", unkept["id"].as_str().unwrap());
    assert_eq!((send(&app, "GET", &path, "a", Value::Null).await.0, &unkept["store"]), (404, &json!(false)));
    assert_eq!(send(&app, "GET", &format!("{path}?stream=true"), "a", Value::Null).await.0, 400);
}

#[tokio::test]
async fn the_oldest_responses_make_room() {
    let app = |bytes| {
        let mut options = Options::default();
        options.kept_responses = bytes;
        router_with(std::sync::Arc::new(MockEngine::new(says("Yes.")).unwrap()), options)
    };
    let small = app(8000);
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(ask(&small, json!({})).await.1["id"].as_str().unwrap().to_owned());
    }
    let mut kept = Vec::new();
    for id in &ids {
        kept.push(send(&small, "GET", &format!("/v1/responses/{id}"), "", Value::Null).await.0 == 200);
    }
    let first = kept.iter().position(|kept| *kept).unwrap();
    assert!(first > 0 && kept[first..].iter().all(|kept| *kept), "{kept:?}");
    // References multiply nothing.
    let mut options = Options::default();
    options.body_limit = 20_000;
    let engine = MockEngine::new(says(&"Yes. ".repeat(100))).unwrap();
    let tight = router_with(std::sync::Arc::new(engine), options);
    let said = ask(&tight, json!({})).await.1["output"][0]["id"].clone();
    let many = |n: usize| json!({ "input": vec![json!({ "type": "item_reference", "id": said }); n] });
    assert_eq!(ask(&tight, many(2)).await.0, 200);
    let (status, body) = ask(&tight, many(60)).await;
    assert!(status == 400 && body.to_string().contains("larger than a body"), "{body}");
    let none = app(0);
    let (_, body) = ask(&none, json!({})).await;
    assert_eq!(body["store"], false);
    let (status, body) = ask(&none, json!({ "store": true })).await;
    assert_eq!((status, &body["error"]["param"]), (400, &json!("store")));
}
