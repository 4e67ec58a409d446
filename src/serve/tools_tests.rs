//! Calls are found however the text is cut, and what is no call is text.

use super::*;
use serde_json::json;

const NAMES: [&str; 2] = ["weather", "now"];

fn parser(format: ToolFormat) -> ToolParser {
    ToolParser::new(format, NAMES.map(str::to_owned))
}

fn call(name: &str, arguments: &str) -> ToolCall {
    ToolCall { name: name.to_owned(), arguments: arguments.to_owned() }
}

/// The events of a text in pieces of `n` bytes, put together.
fn cut(format: ToolFormat, text: &str, n: usize) -> (String, Vec<ToolCall>) {
    let mut parser = parser(format);
    let mut events: Vec<ToolEvent> = text.as_bytes().chunks(n).flat_map(|piece| parser.push(piece)).collect();
    events.extend(parser.finish());
    let (mut out, mut calls, mut open) = (String::new(), Vec::new(), false);
    for event in events {
        match event {
            ToolEvent::Text(text) => {
                assert!(!open, "text within a call");
                out += &text;
            }
            ToolEvent::Begin { name, .. } => {
                assert!(!std::mem::replace(&mut open, true));
                calls.push(ToolCall { name, arguments: String::new() });
            }
            ToolEvent::Arguments { delta, .. } => {
                assert!(open && !delta.is_empty());
                calls.last_mut().unwrap().arguments += &delta;
            }
            ToolEvent::End { .. } => {
                assert!(std::mem::take(&mut open));
                serde_json::from_str::<Value>(&calls.last().unwrap().arguments).unwrap();
            }
            ToolEvent::Broken { raw, .. } => {
                assert!(std::mem::take(&mut open));
                calls.pop();
                out += &raw;
            }
        }
    }
    (out, calls)
}

fn check(format: ToolFormat, text: &str, content: &str, calls: &[ToolCall]) {
    for n in 1..=text.len().max(1) {
        let (got, found) = cut(format, text, n);
        assert_eq!((got.as_str(), &found[..]), (content, calls), "{text:?} by {n}");
    }
    assert_eq!(split_calls(parser(format), text), (content.to_owned(), calls.to_vec()), "{text:?}");
}

#[test]
fn hermes() {
    let paris = r#"{"city": "Pa}r\"is {ü🦀", "days": [1, {"a": {}}]}"#;
    let weather = format!("<tool_call>\n{{\"name\": \"weather\", \"arguments\": {paris}}}\n</tool_call>");
    let now = "<tool_call>{\"arguments\": {}, \"name\": \"now\"}</tool_call>";
    let (a, b) = (call("weather", paris), call("now", "{}"));
    let check =
        |text: &str, content: &str, calls: &[ToolCall]| check(ToolFormat::Hermes, text, content, calls);
    check("Hello, wörld 🦀!\n", "Hello, wörld 🦀!\n", &[]);
    check(&weather, "", std::slice::from_ref(&a));
    check(&format!("{weather}\n{now}\n"), "", &[a.clone(), b.clone()]);
    check(&format!("Let me see.\n\n{weather}\nSo."), "Let me see.\nSo.", std::slice::from_ref(&a));
    check("<tool_call>{\"name\": \"now\"}</tool_call>", "", std::slice::from_ref(&b));
    check("<tool_call>{\"name\": \"now\", \"arguments\": {}}", "", std::slice::from_ref(&b)); // the end is missing
    // No calls.
    for text in [
        "a <tool_cal",
        "a <tool_call> b",
        "<tool_call>{\"name\": \"nothing\", \"arguments\": {}}</tool_call>",
        "<tool_call>{\"name\": \"now\", \"arguments\": [1]}</tool_call>",
        "<tool_call>{\"name\": 1, \"arguments\": {}}</tool_call>",
        "<tool_call>{\"name\": \"now\", \"arguments\": {\"a\": tru}}</tool_call>",
        "<tool_call>{\"name\": \"weather\", \"arguments\": {\"a\": \"cut o",
        "<tool_call>\n{\"nam",
        "<tool_call>[]</tool_call>",
        "{\"name\": \"now\", \"arguments\": {}}",
    ] {
        check(text, text, &[]);
    }
    // One after a broken one.
    let broken = "<tool_call>{\"name\": \"weather\", \"arguments\": {\"a\": ";
    check(&format!("{broken}{now}"), broken, std::slice::from_ref(&b));
    check(&format!("<tool_call>{now}"), "<tool_call>", std::slice::from_ref(&b));
}

#[test]
fn llama3() {
    let weather = r#"{"name": "weather", "parameters": {"city": "Zürich"}}"#;
    let now = r#"{"type": "function", "name": "now", "parameters": {}}"#;
    let (a, b) = (call("weather", r#"{"city": "Zürich"}"#), call("now", "{}"));
    let check =
        |text: &str, content: &str, calls: &[ToolCall]| check(ToolFormat::Llama3, text, content, calls);
    check(weather, "", std::slice::from_ref(&a));
    check(&format!("<|python_tag|>{weather}"), "", std::slice::from_ref(&a));
    check(&format!("Well.\n<|python_tag|>{weather}"), "Well.", std::slice::from_ref(&a));
    check(&format!("\n{weather}; {now}"), "", &[a.clone(), b.clone()]);
    check(&format!("{weather}\n{now} done"), "done", &[a, b]);
    for text in [
        "{\"answer\": 42}",
        "The {\"name\": \"now\", \"parameters\": {}}",
        "{\"name\": \"now\"",
        "{",
        "<|python_tag|>print(1)",
    ] {
        check(text, text, &[]);
    }
}

#[test]
fn arguments_stream() {
    let mut parser = parser(ToolFormat::Hermes);
    assert_eq!(parser.push(b"<tool_call>\n{\"name\": \"now\", \"arguments\""), []);
    let begin = ToolEvent::Begin { index: 0, name: "now".to_owned() };
    let delta = |text: &str| ToolEvent::Arguments { index: 0, delta: text.to_owned() };
    assert_eq!(parser.push(b": {\"a"), [begin, delta("{\"a")]);
    assert_eq!(parser.push(b"\": 1"), [delta("\": 1")]);
    assert_eq!(parser.push(b"}"), [delta("}")]);
    assert_eq!(parser.push(b"}"), [ToolEvent::End { index: 0 }]);
    assert_eq!((parser.push(b"\n</tool_call>"), parser.finish(), parser.calls()), (vec![], vec![], 1));
}

fn tools() -> Value {
    json!([{"type": "function", "function": {"name": "weather", "description": "d",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}])
}

#[test]
fn requests_are_read_or_refused_by_name() {
    let parse = |tools: Value, choice: Value| Tools::parse(Some(&tools), Some(&choice), None);
    let named = json!({"type": "function", "function": {"name": "weather"}});
    assert_eq!(*parse(tools(), Value::Null).unwrap().choice(), ToolChoice::Auto);
    assert_eq!(*parse(tools(), named.clone()).unwrap().choice(), ToolChoice::Named("weather".to_owned()));
    assert_eq!(parse(tools(), json!("auto")).unwrap().for_template(), tools().as_array().map(|v| &v[..]));
    let none = parse(tools(), json!("none")).unwrap();
    assert!(none.for_template().is_none() && none.parser(ToolFormat::Hermes).is_none());
    let free = Tools::parse(None, None, None).unwrap();
    assert!(free.for_template().is_none() && free.constraint(ToolFormat::Hermes).unwrap().is_none());
    let bad = |tools: Value, choice: Value| parse(tools, choice).unwrap_err().to_string();
    assert!(bad(json!({}), Value::Null).starts_with("tools:"));
    assert!(bad(json!([]), json!("required")).contains("no tools"));
    assert!(bad(json!([]), named).contains("weather"));
    assert!(bad(tools(), json!("always")).starts_with("tool_choice:"));
    assert!(bad(json!([{"type": "web_search"}]), Value::Null).starts_with("tools[0]: "));
    assert!(bad(json!([{"type": "function", "function": {"name": "a b"}}]), Value::Null).contains("name"));
    assert!(
        bad(json!([{"type": "function", "function": {"name": "a", "x": 1}}]), Value::Null).contains("`x`")
    );
    let twice = [tools()[0].clone(), tools()[0].clone()];
    assert!(bad(json!(twice), Value::Null).starts_with("tools[1]: "));
    assert!(bad(json!(vec![tools()[0].clone(); 129]), Value::Null).contains("128"));
}

#[test]
fn templates_tell_the_format() {
    let template = |name: &str| {
        let path = format!("{}/tests/golden/chat_templates/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let golden: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        ChatTemplate::new(golden["template"].as_str().unwrap()).unwrap()
    };
    assert_eq!(ToolFormat::of(&template("qwen3")), Some(ToolFormat::Hermes));
    assert_eq!(ToolFormat::of(&template("llama3")), Some(ToolFormat::Llama3));
    assert_eq!(ToolFormat::of(&template("chatml")), None);
    assert_eq!(ToolFormat::of(&template("mistral")), None);
    assert!(super::super::reasoning::has_reasoning(&template("qwen3")));
    assert!(!super::super::reasoning::has_reasoning(&template("llama3")));
}
