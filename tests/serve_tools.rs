//! Tools, reasoning and forms through the API: what the template gets, what the client gets, whole and streamed.
#![cfg(feature = "serve")]

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};
use std::path::Path;
use tower::ServiceExt;
use unimlx::serve::{MockEngine, Script, router};

const CHAT: &str = "/v1/chat/completions";

/// A template of a published model.
fn template(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/chat_templates/{name}.json"));
    let file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    file["template"].as_str().unwrap().to_owned()
}

/// A server whose model says this; without an answer it says its prompt.
fn app(name: Option<&str>, answer: Option<&str>) -> axum::Router {
    let template = name.map(template);
    let answer = answer.map(str::to_owned);
    router(
        MockEngine::new(Script { answer, template, context_length: 1 << 16, ..Script::default() }).unwrap(),
    )
}

async fn post(app: &axum::Router, path: &str, body: &Value) -> (u16, String) {
    let request = Request::post(path).body(Body::from(body.to_string())).unwrap();
    let response = app.clone().oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

async fn ask(app: &axum::Router, path: &str, body: &Value) -> (u16, Value) {
    let (status, text) = post(app, path, body).await;
    (status, serde_json::from_str(&text).unwrap())
}

fn tools() -> Value {
    json!([
        { "type": "function", "function": { "name": "weather", "description": "How it is outside",
            "parameters": { "type": "object", "properties": { "city": { "type": "string" } },
                "required": ["city"], "additionalProperties": false } } },
        { "type": "function", "function": { "name": "now" } },
    ])
}

fn chat(more: Value) -> Value {
    let mut body = json!({ "model": "mock", "messages": [{ "role": "user", "content": "hi" }] });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// The message that a stream's deltas make, and why it ended.
async fn streamed(app: &axum::Router, mut body: Value) -> (Value, Value) {
    body["stream"] = json!(true);
    let (status, text) = post(app, CHAT, &body).await;
    assert_eq!(status, 200, "{text}");
    let mut lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert_eq!(lines.pop(), Some("[DONE]"));
    let (mut message, mut reason) = (json!({ "content": "" }), Value::Null);
    for line in lines {
        let event: Value = serde_json::from_str(line).unwrap();
        let choice = &event["choices"][0];
        assert!(reason.is_null(), "more after the end: {line}");
        reason = choice["finish_reason"].clone();
        for (key, value) in choice["delta"].as_object().unwrap() {
            match (key.as_str(), value) {
                ("tool_calls", calls) => {
                    let call = &calls[0];
                    let index = call["index"].as_u64().unwrap() as usize;
                    let all = message.as_object_mut().unwrap().entry("tool_calls").or_insert(json!([]));
                    if call["id"].is_string() {
                        assert_eq!(
                            (all.as_array().unwrap().len(), &call["type"]),
                            (index, &json!("function"))
                        );
                        all.as_array_mut().unwrap().push(call["function"].clone());
                    } else {
                        let more = call["function"]["arguments"].as_str().unwrap();
                        let whole = all[index]["arguments"].as_str().unwrap().to_owned() + more;
                        all[index]["arguments"] = whole.into();
                    }
                }
                (_, Value::String(text)) => {
                    let whole = message[key].as_str().unwrap_or_default().to_owned() + text;
                    message[key] = whole.into();
                }
                other => panic!("{other:?}"),
            }
        }
    }
    (message, reason)
}

/// What the whole answer says, which is what the stream says: text, reasoning, calls, why it ended.
async fn said(app: &axum::Router, body: Value) -> (String, String, Vec<(String, String)>, String) {
    let (status, whole) = ask(app, CHAT, &body).await;
    assert_eq!(status, 200, "{whole}");
    let choice = &whole["choices"][0];
    let (other, reason) = streamed(app, body).await;
    assert_eq!(reason, choice["finish_reason"]);
    let text = |message: &Value, key: &str| message[key].as_str().unwrap_or_default().to_owned();
    let message = &choice["message"];
    let calls = |list: &Value, at: &str| -> Vec<(String, String)> {
        let list = list.as_array().into_iter().flatten();
        list.map(|call| call.pointer(at).unwrap()).map(|f| (text(f, "name"), text(f, "arguments"))).collect()
    };
    let whole_calls = calls(&message["tool_calls"], "/function");
    assert_eq!(whole_calls, calls(&other["tool_calls"], ""));
    for key in ["content", "reasoning_content"] {
        assert_eq!(text(message, key), text(&other, key), "{key}");
    }
    let mut ids: Vec<_> =
        message["tool_calls"].as_array().into_iter().flatten().map(|c| c["id"].clone()).collect();
    assert!(ids.iter().all(|id| id.as_str().unwrap().starts_with("call_")));
    ids.dedup();
    assert_eq!(ids.len(), whole_calls.len());
    let reason = text(choice, "finish_reason");
    (text(message, "content"), text(message, "reasoning_content"), whole_calls, reason)
}

fn call(name: &str, arguments: &str) -> (String, String) {
    (name.to_owned(), arguments.to_owned())
}

#[tokio::test]
async fn calls_are_found_in_the_format_of_the_template() {
    let hermes = "Let me see.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Köln\"}}\n</tool_call>\n\
                  <tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
    let llama = "{\"name\": \"weather\", \"parameters\": {\"city\": \"Köln\"}}; {\"name\": \"now\", \"parameters\": {}}";
    let both = vec![call("weather", "{\"city\": \"Köln\"}"), call("now", "{}")];
    for (name, answer, text) in
        [(Some("qwen3"), hermes, "Let me see."), (Some("llama3"), llama, ""), (None, hermes, "Let me see.")]
    {
        let app = app(name, Some(answer));
        let (content, _, calls, reason) = said(&app, chat(json!({ "tools": tools() }))).await;
        assert_eq!((content.as_str(), &calls, reason.as_str()), (text, &both, "tool_calls"), "{name:?}");
        // Without tools, and with none allowed, it is text.
        for none in [json!({}), json!({ "tools": tools(), "tool_choice": "none" })] {
            let (content, _, calls, reason) = said(&app, chat(none)).await;
            assert_eq!((content.as_str(), calls.len(), reason.as_str()), (answer, 0, "stop"));
        }
    }
    // In another's format it is text.
    let (content, _, calls, _) =
        said(&app(Some("qwen3"), Some(llama)), chat(json!({ "tools": tools() }))).await;
    assert_eq!((content.as_str(), calls.len()), (llama, 0));
}

#[tokio::test]
async fn a_call_that_is_cut_off_is_there_as_far_as_it_goes() {
    let answer = "<tool_call>{\"name\": \"weather\", \"arguments\": {\"city\": \"Bonn\"}}</tool_call>";
    let app = app(Some("qwen3"), Some(answer));
    let (content, _, calls, reason) =
        said(&app, chat(json!({ "tools": tools(), "max_tokens": answer.find("nn").unwrap() + 1 }))).await;
    assert_eq!((content.as_str(), reason.as_str()), ("", "length"));
    assert_eq!(calls, [call("weather", "{\"city\": \"Bon")]);
}

#[tokio::test]
async fn a_required_call_is_forced_and_a_named_one_is_that_one() {
    let weather = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Bonn\"}}\n</tool_call>";
    let now = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
    let named = json!({ "type": "function", "function": { "name": "weather" } });
    for (answer, choice, good, ends) in [
        (weather, json!("required"), true, "tool_calls"),
        (now, json!("required"), true, "tool_calls"),
        ("It is warm.", json!("required"), false, ""),
        ("<tool_call>\n{\"name\": \"weather\", \"arguments\": {}}", json!("required"), false, ""),
        (
            "<tool_call>\n{\"name\": \"weather\", \"arguments\": {}}\n</tool_call>",
            json!("auto"),
            true,
            "tool_calls",
        ),
        (weather, named.clone(), true, "stop"),
        (now, named, false, ""),
    ] {
        let app = app(Some("qwen3"), Some(answer));
        // The mock says what its script says, and fails where a grammar forbids it.
        let body = chat(json!({ "tools": tools(), "tool_choice": choice, "chat_template_kwargs": {
            "enable_thinking": false } }));
        let (status, whole) = ask(&app, CHAT, &body).await;
        assert_eq!(status, if good { 200 } else { 400 }, "{answer} {choice}: {whole}");
        if good {
            let (_, _, calls, reason) = said(&app, body).await;
            assert_eq!((calls.len(), reason.as_str()), (1, ends), "{answer} {choice}");
        }
    }
    let two = format!("{now}\n{now}");
    for (parallel, status) in [(true, 200), (false, 400)] {
        for choice in ["auto", "required"] {
            let app = app(Some("qwen3"), Some(&two));
            let more = json!({ "tools": tools(), "tool_choice": choice, "parallel_tool_calls": parallel });
            let (got, body) = ask(&app, CHAT, &chat(more)).await;
            // A single required call is complete before the second one begins.
            let calls = body["choices"][0]["message"]["tool_calls"].as_array().map_or(0, Vec::len);
            let cut = choice == "required" && !parallel && got == 200 && calls == 1;
            assert!(cut || got == status, "{choice} {parallel}: {body}");
            assert!(got != 200 || cut || calls == 2, "{body}");
        }
    }
}

#[tokio::test]
async fn strict_arguments_and_a_form_beside_tools_are_kept() {
    let mut strict = tools();
    strict[0]["function"]["strict"] = json!(true);
    let format = json!({ "type": "json_schema", "json_schema": { "name": "warm", "schema": {
        "type": "object", "properties": { "warm": { "type": "boolean" } }, "required": ["warm"],
        "additionalProperties": false } } });
    let call = |arguments: &str| {
        format!("<tool_call>\n{{\"name\": \"weather\", \"arguments\": {arguments}}}\n</tool_call>")
    };
    for (answer, good) in [
        (call("{\"city\": \"Bonn\"}"), true),
        (call("{\"town\": \"Bonn\"}"), false),
        ("{\"warm\": true}".to_owned(), true),
        ("{\"warm\": 1}".to_owned(), false),
        ("Yes.".to_owned(), false),
    ] {
        for name in [Some("qwen3"), None] {
            let app = app(name, Some(&answer));
            let body = chat(json!({ "tools": strict, "response_format": format }));
            assert_eq!(ask(&app, CHAT, &body).await.0, if good { 200 } else { 400 }, "{answer} {name:?}");
        }
    }
}

#[tokio::test]
async fn the_template_gets_tools_calls_and_results() {
    let history = json!([
        { "role": "user", "content": "Is it warm in Bonn?" },
        { "role": "assistant", "content": null, "tool_calls": [{ "id": "call_1", "type": "function",
            "function": { "name": "weather", "arguments": "{\"city\": \"Bonn\"}" } }] },
        { "role": "tool", "tool_call_id": "call_1", "content": [{ "type": "text", "text": "25 degrees" }] },
    ]);
    let (dense, loose) = ("{\"city\":\"Bonn\"}", "{\"city\": \"Bonn\"}");
    for (name, list, key, arguments) in [
        (Some("qwen3"), "<tools>", "arguments", loose),
        (Some("llama3"), "You can call these functions.", "parameters", loose),
        (Some("gemma"), "<tools>", "arguments", dense),
        (Some("mistral"), "<tools>", "arguments", dense),
        (None, "<tools>", "arguments", dense),
    ] {
        // The answer is the prompt; a call within it is read as one if there are tools.
        let app = app(name, None);
        let (status, whole) = ask(&app, CHAT, &json!({ "model": "mock", "messages": history })).await;
        let prompt = whole["choices"][0]["message"]["content"].as_str().unwrap_or_default();
        let call = format!("{{\"name\": \"weather\", \"{key}\": {arguments}}}");
        assert!(
            status == 200 && prompt.contains(&call) && prompt.contains("25 degrees"),
            "{name:?}: {whole}"
        );
        let (status, whole) = ask(&app, CHAT, &chat(json!({ "tools": tools() }))).await;
        let prompt = whole["choices"][0]["message"]["content"].as_str().unwrap_or_default();
        assert!(
            status == 200 && prompt.contains(list) && prompt.contains("How it is outside"),
            "{name:?}: {whole}"
        );
    }
    for (message, param) in [
        (json!({ "role": "tool", "content": "x" }), "messages[0].tool_call_id"),
        (json!({ "role": "user", "content": "x", "tool_call_id": "y" }), "messages[0].tool_call_id"),
        (json!({ "role": "user", "content": "x", "tool_calls": [{}] }), "messages[0].tool_calls"),
        (json!({ "role": "assistant", "tool_calls": [{}] }), "messages[0].tool_calls[0].id"),
        (
            json!({ "role": "assistant", "tool_calls": [{ "id": "a", "type": "function",
                "function": { "name": "f", "arguments": "{" } }] }),
            "messages[0].tool_calls[0].function.arguments",
        ),
    ] {
        let (status, body) = ask(&app(None, None), CHAT, &chat(json!({ "messages": [message] }))).await;
        assert_eq!((status, &body["error"]["param"]), (400, &json!(param)), "{body}");
    }
    for (more, param) in [
        (
            json!({ "tools": [{ "type": "function", "function": { "name": "a b" } }] }),
            "tools[0].function.name",
        ),
        (json!({ "tools": [{ "type": "function" }] }), "tools[0].function"),
        (json!({ "tools": [{ "type": "web_search" }] }), "tools[0]"),
        (json!({ "tools": {} }), "tools"),
        (json!({ "tools": tools(), "tool_choice": "sometimes" }), "tool_choice"),
        (
            json!({ "tools": tools(), "tool_choice": { "type": "function", "function": { "name": "x" } } }),
            "tool_choice",
        ),
        (json!({ "tool_choice": "required" }), "tool_choice"),
        (json!({ "tools": tools(), "parallel_tool_calls": 1 }), "parallel_tool_calls"),
    ] {
        let (status, body) = ask(&app(None, None), CHAT, &chat(more)).await;
        assert_eq!((status, &body["error"]["param"]), (400, &json!(param)), "{body}");
    }
}

#[tokio::test]
async fn reasoning_is_apart_where_the_template_has_it() {
    let answer = "<think>\nhm, hm\n</think>\n\nYes.";
    let (content, reasoning, ..) = said(&app(Some("qwen3"), Some(answer)), chat(json!({}))).await;
    assert_eq!((content.as_str(), reasoning.as_str()), ("Yes.", "hm, hm"));
    let (_, whole) = ask(&app(Some("qwen3"), Some(answer)), CHAT, &chat(json!({}))).await;
    let counted = whole["usage"]["completion_tokens_details"]["reasoning_tokens"].as_u64().unwrap();
    assert!((7..=23).contains(&counted), "{counted}");
    let (content, reasoning, ..) = said(&app(None, Some(answer)), chat(json!({}))).await;
    assert_eq!((content.as_str(), reasoning.as_str()), (answer, ""));
    // The form is that of the answer, not of the thoughts before it.
    for (answer, thinking, good) in [
        ("<think>\nhm\n</think>\n\n{\"a\": 1}", true, true),
        ("{\"a\": 1}", true, true),
        ("<think>\nhm\n</think>\n\nno", true, false),
        ("<think>\nhm\n</think>\n\n{\"a\": 1}", false, false),
        ("{\"a\": 1}", false, true),
    ] {
        let body = chat(json!({ "response_format": { "type": "json_object" },
            "chat_template_kwargs": { "enable_thinking": thinking } }));
        let (status, whole) = ask(&app(Some("qwen3"), Some(answer)), CHAT, &body).await;
        assert_eq!(status, if good { 200 } else { 400 }, "{answer} {thinking}: {whole}");
        assert!(!good || whole["choices"][0]["message"]["content"] == "{\"a\": 1}", "{whole}");
    }
    let call = "<think>\nhm\n</think>\n\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
    let body = chat(json!({ "tools": tools(), "tool_choice": "required" }));
    let (_, reasoning, calls, _) = said(&app(Some("qwen3"), Some(call)), body).await;
    assert_eq!((reasoning.as_str(), calls.len()), ("hm", 1));
}

#[tokio::test]
async fn every_endpoint_knows_every_form() {
    let regex = "[0-9]{3}-[a-z]+";
    for (answer, good) in [("123-abc", true), ("12-abc", false)] {
        let app = app(None, Some(answer));
        let format = json!({ "type": "regex", "regex": regex });
        for (path, body) in [
            (CHAT, chat(json!({ "response_format": format }))),
            ("/v1/completions", json!({ "model": "mock", "prompt": ["a", "b"], "response_format": format })),
            ("/v1/responses", json!({ "model": "mock", "input": "a", "text": { "format": format } })),
        ] {
            let (status, whole) = ask(&app, path, &body).await;
            assert_eq!(status, if good { 200 } else { 400 }, "{path} {answer}: {whole}");
        }
    }
    let format = json!({ "type": "json_schema", "name": "x", "strict": true, "schema": { "type": "object",
        "properties": { "a": { "type": "integer" } }, "required": ["a"], "additionalProperties": false } });
    for (answer, good) in [("{\"a\": 1}", true), ("{\"b\": 1}", false)] {
        let body = json!({ "model": "mock", "input": "a", "text": { "format": format } });
        let (status, whole) = ask(&app(None, Some(answer)), "/v1/responses", &body).await;
        assert_eq!(status, if good { 200 } else { 400 }, "{whole}");
        assert!(!good || whole["text"]["format"]["name"] == "x");
    }
    for regex in ["", "(", "a\\"] {
        let body = chat(json!({ "response_format": { "type": "regex", "regex": regex } }));
        assert_eq!(ask(&app(None, Some("a")), CHAT, &body).await.0, 400, "{regex}");
    }
}

#[tokio::test]
async fn responses_have_calls_and_take_their_results() {
    let answer = "<think>\nhm\n</think>\n\nI look.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Bonn\"}}\n</tool_call>";
    let app_ = app(Some("qwen3"), Some(answer));
    let tool = json!({ "type": "function", "name": "weather", "parameters": { "type": "object" } });
    let body = json!({ "model": "mock", "input": "warm?", "tools": [tool] });
    let (status, whole) = ask(&app_, "/v1/responses", &body).await;
    assert_eq!(status, 200, "{whole}");
    let kinds: Vec<_> =
        whole["output"].as_array().unwrap().iter().map(|i| i["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["reasoning", "message", "function_call"]);
    let call = &whole["output"][2];
    assert_eq!((&call["name"], &call["arguments"]), (&json!("weather"), &json!("{\"city\": \"Bonn\"}")));
    let mut streaming = body.clone();
    streaming["stream"] = json!(true);
    let (_, text) = post(&app_, "/v1/responses", &streaming).await;
    let events: Vec<Value> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for (i, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], i, "{event}");
    }
    let deltas = |name: &str| -> String {
        events.iter().filter(|e| e["type"] == name).map(|e| e["delta"].as_str().unwrap()).collect()
    };
    assert_eq!(deltas("response.reasoning_text.delta"), "hm");
    assert_eq!(deltas("response.output_text.delta"), "I look.");
    assert_eq!(deltas("response.function_call_arguments.delta"), "{\"city\": \"Bonn\"}");
    let last = events.last().unwrap();
    assert_eq!(last["type"], "response.completed");
    let added = events.iter().filter(|e| e["type"] == "response.output_item.added").count();
    let done: Vec<_> = events.iter().filter(|e| e["type"] == "response.output_item.done").collect();
    assert_eq!((added, done.len()), (3, 3));
    for (i, event) in done.iter().enumerate() {
        assert_eq!((&event["output_index"], &event["item"]), (&json!(i), &last["response"]["output"][i]));
    }
    // The results come back with all that was said.
    let mut input = vec![json!({ "role": "user", "content": "warm?" })];
    input.extend(whole["output"].as_array().unwrap().iter().cloned());
    input.push(json!({ "type": "function_call_output", "call_id": call["call_id"], "output": "25 degrees" }));
    let body = json!({ "model": "mock", "input": input, "tools": [tool] });
    let (status, got) = ask(&app(Some("qwen3"), None), "/v1/responses", &body).await;
    assert_eq!(status, 200, "{got}");
    assert!(got["output"].to_string().contains("25 degrees"), "{got}");
    let named = json!({ "type": "function", "name": "weather" });
    let body = json!({ "model": "mock", "input": "x", "tools": [tool], "tool_choice": named });
    assert_eq!(ask(&app(None, Some("no")), "/v1/responses", &body).await.0, 400);
    for (more, param) in [
        (json!({ "tools": [{ "type": "web_search" }] }), "tools[0]"),
        (json!({ "input": [{ "type": "computer_call" }] }), "input[0].type"),
        (json!({ "input": [] }), "input"),
        (json!({ "text": { "format": { "type": "xml" } } }), "text.format.type"),
        (json!({ "previous_response_id": "resp_1" }), "previous_response_id"),
    ] {
        let mut body = json!({ "model": "mock", "input": "x" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, body) = ask(&app(None, None), "/v1/responses", &body).await;
        assert_eq!((status, &body["error"]["param"]), (400, &json!(param)), "{body}");
    }
}

#[tokio::test]
async fn an_object_has_the_properties_that_it_names() {
    let open = json!({ "type": "object", "properties": { "a": { "type": "integer" } } });
    let told = |key: &str, value: Value| {
        let mut schema = open.clone();
        schema[key] = value;
        schema
    };
    let (inside, more) = ("{\"a\": 1}", "{\"a\": 1, \"b\": 2}");
    for (schema, answer, good) in [
        (open.clone(), inside, true),
        (open.clone(), more, false),
        (told("additionalProperties", json!(true)), more, true),
        (told("required", json!(["b"])), more, true),
        (told("patternProperties", json!({ "^b$": {} })), more, true),
        (json!({ "type": "object" }), more, true),
        (json!({ "allOf": [open.clone(), { "properties": { "b": { "type": "integer" } } }] }), more, true),
        (json!({ "allOf": [open.clone()] }), more, false),
        (json!({ "properties": { "a": { "type": "integer", "format": "uint8" } } }), "{\"a\": 255}", true),
        (json!({ "properties": { "a": { "type": "integer", "format": "uint8" } } }), "{\"a\": 256}", false),
        (json!({ "properties": { "a": { "type": "integer", "format": "int32" } } }), "{\"a\": -9}", true),
        (
            json!({ "properties": { "a": { "format": "int16", "type": "integer", "minimum": 3 } } }),
            "{\"a\": 2}",
            false,
        ),
        (
            json!({ "properties": { "a": { "type": "string", "format": "password" } } }),
            "{\"a\": \"x\"}",
            true,
        ),
    ] {
        let format = json!({ "type": "json_object", "schema": schema });
        let body = chat(json!({ "response_format": format }));
        let (status, whole) = ask(&app(None, Some(answer)), CHAT, &body).await;
        assert_eq!(status, if good { 200 } else { 400 }, "{schema} {answer}: {whole}");
        assert!(!good || whole["choices"][0]["message"]["content"] == answer, "{schema}: {whole}");
    }
}

#[tokio::test]
async fn effort_is_what_the_template_makes_of_it() {
    let closed = "<think>\n\n</think>";
    for (effort, thinks) in [("none", false), ("low", true), ("high", true)] {
        let app = app(Some("qwen3"), None);
        let (_, whole) = ask(&app, CHAT, &chat(json!({ "reasoning_effort": effort }))).await;
        let prompt = whole["choices"][0]["message"]["content"].as_str().unwrap();
        assert_eq!(prompt.contains(closed), !thinks, "{effort}: {prompt}");
        let body = json!({ "model": "mock", "input": "hi", "reasoning": { "effort": effort } });
        let (_, whole) = ask(&app, "/v1/responses", &body).await;
        assert_eq!(whole["output"].to_string().contains("</think>"), !thinks, "{whole}");
        assert_eq!(whole["reasoning"], json!({ "effort": effort, "summary": null }));
    }
    let lines = "{% for m in messages %}{{ m.content }}{% endfor %}{{ reasoning_effort }}";
    let script = Script { template: Some(lines.to_owned()), ..Script::default() };
    let (_, whole) =
        ask(&router(MockEngine::new(script).unwrap()), CHAT, &chat(json!({ "reasoning_effort": "low" })))
            .await;
    assert_eq!(whole["choices"][0]["message"]["content"], "hilow");
}
