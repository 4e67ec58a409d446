//! Tools of a chat: what a request says, what the chat template gets, and the calls in an answer.
//!
//! A template receives `tools` as the request has them and writes them in its model's way. The model's calls
//! come in one of two formats, [`ToolFormat`]; [`ToolParser`] finds them in the text as it comes, and
//! [`Tools::constraint`] forces them.

use super::grammar::Constraint;
pub use super::tool_stream::{ToolEvent, ToolParser};
use crate::error::{Error, Result};
use crate::io::{Chat, ChatTemplate};
use serde_json::{Value, json};

/// Tools in one request.
const MOST_TOOLS: usize = 128;

/// A function that the model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    /// 1 to 64 letters, digits, `_`, `-`.
    pub name: String,
    /// A JSON Schema of the arguments; any object without it.
    pub parameters: Option<Value>,
    /// The arguments must be valid, whether a call is required or not.
    pub strict: bool,
}

impl Function {
    /// The function without what only strict ones hold the model to.
    pub(super) fn loose(&self) -> Self {
        let parameters = if self.strict { self.parameters.clone() } else { None };
        Self { name: self.name.clone(), parameters, strict: self.strict }
    }
}

/// Whether the model calls functions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolChoice {
    /// It may.
    Auto,
    /// It does not.
    None,
    /// It calls one or more.
    Required,
    /// It calls this one.
    Named(String),
}

/// How a model writes calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolFormat {
    /// `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`: Hermes, Qwen.
    Hermes,
    /// `{"name": ..., "parameters": {...}}` at the start, perhaps after `<|python_tag|>`: Llama 3.
    Llama3,
}

impl ToolFormat {
    /// The format in which a template writes calls of earlier answers; `None` if it does not write them, or in
    /// another format.
    pub fn of(template: &ChatTemplate) -> Option<Self> {
        const NAME: &str = "probe_of_format";
        let call =
            json!({"type": "function", "id": "call00000", "function": {"name": NAME, "arguments": {}}});
        let messages = [
            json!({"role": "user", "content": "question"}),
            json!({"role": "assistant", "content": "", "tool_calls": [call]}),
        ];
        let tools = [json!({"type": "function", "function": {"name": "other", "description": "another",
            "parameters": {"type": "object", "properties": {}}}})];
        let chat = Chat { messages: &messages, tools: Some(&tools), ..Chat::default() };
        let text = template.render(&chat).ok()?;
        let (before, after) = text.split_at(text.find(NAME)?);
        let is_object = |text: &str| text.trim_start().starts_with('{');
        match before.rfind(Self::Hermes.mark()) {
            Some(at) if is_object(&before[at + Self::Hermes.mark().len()..]) => Some(Self::Hermes),
            Some(_) => None,
            None => after.contains("\"parameters\"").then_some(Self::Llama3),
        }
    }

    /// What announces a call in the middle of a text.
    pub fn mark(self) -> &'static str {
        match self {
            Self::Hermes => "<tool_call>",
            Self::Llama3 => "<|python_tag|>",
        }
    }
}

/// The tools of a request.
#[derive(Clone, Debug)]
pub struct Tools {
    functions: Vec<Function>,
    values: Vec<Value>,
    choice: ToolChoice,
    parallel: bool,
}

impl Tools {
    /// Reads the fields `tools`, `tool_choice` and `parallel_tool_calls` of a chat request.
    ///
    /// # Errors
    /// Malformed or unsupported; the message begins with the field.
    pub fn parse(tools: Option<&Value>, choice: Option<&Value>, parallel: Option<bool>) -> Result<Self> {
        let mut values = match tools {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(list)) if list.len() <= MOST_TOOLS => list.clone(),
            Some(Value::Array(list)) => {
                return Err(Error::input(format!("tools: {} of them, at most {MOST_TOOLS}", list.len())));
            }
            Some(_) => return Err(Error::input("tools: expected a list")),
        };
        let mut functions: Vec<Function> = Vec::with_capacity(values.len());
        for (i, value) in values.iter().enumerate() {
            let function = function(value).map_err(|e| e.context(format!("tools[{i}]")))?;
            if functions.iter().any(|f| f.name == function.name) {
                return Err(Error::input(format!("tools[{i}]: another tool has the name {}", function.name)));
            }
            functions.push(function);
        }
        let choice = match choice {
            Some(allowed) if allowed["type"] == "allowed_tools" => {
                let (choice, names) = allowed_tools(allowed, &functions)?;
                // The others are as if they were not there.
                functions.retain(|f| names.contains(&f.name.as_str()));
                values.retain(|v| v["function"]["name"].as_str().is_some_and(|n| names.contains(&n)));
                choice
            }
            choice => tool_choice(choice, &functions)?,
        };
        Ok(Self { functions, values, choice, parallel: parallel.unwrap_or(true) })
    }

    /// What the chat template gets as `tools`: nothing if no tool may be called.
    pub fn for_template(&self) -> Option<&[Value]> {
        let used = self.choice != ToolChoice::None && !self.values.is_empty();
        used.then_some(&self.values[..])
    }

    /// The functions.
    pub fn functions(&self) -> &[Function] {
        &self.functions
    }

    /// Whether the model calls them.
    pub fn choice(&self) -> &ToolChoice {
        &self.choice
    }

    /// What forces calls that are required or named, valid arguments of strict functions, and no more than one
    /// call where parallel ones are not wanted. `None` leaves the answer free.
    ///
    /// # Errors
    /// A function's parameters cannot be enforced: [`Constraint::json_schema`].
    pub fn constraint(&self, format: ToolFormat) -> Result<Option<Constraint>> {
        let all: Vec<&Function> = self.functions.iter().collect();
        match &self.choice {
            ToolChoice::None => Ok(None),
            ToolChoice::Auto if all.is_empty() => Ok(None),
            ToolChoice::Auto if self.parallel && !all.iter().any(|f| f.strict) => Ok(None),
            ToolChoice::Auto => Constraint::tool_calls_or_text(&all, format, self.parallel).map(Some),
            ToolChoice::Required => Constraint::tool_calls(&all, format, self.parallel).map(Some),
            ToolChoice::Named(name) => {
                let one: Vec<&Function> = all.into_iter().filter(|f| f.name == *name).collect();
                Constraint::tool_calls(&one, format, false).map(Some)
            }
        }
    }

    /// Calls alone, of any of the functions: one of the forms that an answer may have. Arguments of functions
    /// that are not strict are any JSON objects.
    ///
    /// # Errors
    /// As [`Tools::constraint`].
    pub fn calls(&self, format: ToolFormat) -> Result<Constraint> {
        let loose: Vec<Function> = self.functions.iter().map(Function::loose).collect();
        Constraint::tool_calls(&loose.iter().collect::<Vec<_>>(), format, self.parallel)
    }

    /// A parser of the answer; `None` if it has no calls.
    pub fn parser(&self, format: ToolFormat) -> Option<ToolParser> {
        let names = self.functions.iter().map(|f| f.name.clone());
        self.for_template().map(|_| ToolParser::new(format, names))
    }
}

/// Fields that are known; others are refused, unless they are `null`.
fn known(value: &Value, fields: &[&str]) -> Result<()> {
    let Value::Object(map) = value else { return Err(Error::input("expected an object")) };
    match map.iter().find(|(key, value)| !value.is_null() && !fields.contains(&key.as_str())) {
        Some((key, _)) => Err(Error::unsupported(format!("the field `{key}` is not supported"))),
        None => Ok(()),
    }
}

fn function(tool: &Value) -> Result<Function> {
    known(tool, &["type", "function"])?;
    match tool.get("type").and_then(Value::as_str) {
        Some("function") => {}
        Some(other) => return Err(Error::unsupported(format!("a tool of type {other:?}, only functions"))),
        None => return Err(Error::input("type: it must be \"function\"")),
    }
    let function = tool.get("function").ok_or_else(|| Error::input("function: it is missing"))?;
    known(function, &["name", "description", "parameters", "strict"]).map_err(|e| e.context("function"))?;
    let name = function.get("name").and_then(Value::as_str).unwrap_or("");
    let fits = |c: u8| c.is_ascii_alphanumeric() || c == b'_' || c == b'-';
    if name.is_empty() || name.len() > 64 || !name.bytes().all(fits) {
        return Err(Error::input("function.name: expected 1 to 64 letters, digits, `_`, `-`"));
    }
    if function.get("description").is_some_and(|d| !d.is_string() && !d.is_null()) {
        return Err(Error::input("function.description: expected a text"));
    }
    let parameters = match function.get("parameters") {
        None | Some(Value::Null) => None,
        Some(schema @ Value::Object(_)) => Some(schema.clone()),
        Some(_) => return Err(Error::input("function.parameters: expected a JSON Schema")),
    };
    let strict = match function.get("strict") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(strict)) => *strict,
        Some(_) => return Err(Error::input("function.strict: expected true or false")),
    };
    Ok(Function { name: name.to_owned(), parameters, strict })
}

fn tool_choice(choice: Option<&Value>, functions: &[Function]) -> Result<ToolChoice> {
    let expected =
        || Error::input("tool_choice: expected \"auto\", \"none\", \"required\" or a named function");
    let choice = match choice {
        None | Some(Value::Null) if functions.is_empty() => ToolChoice::None,
        None | Some(Value::Null) => ToolChoice::Auto,
        Some(Value::String(word)) => match word.as_str() {
            "auto" => ToolChoice::Auto,
            "none" => ToolChoice::None,
            "required" => ToolChoice::Required,
            _ => return Err(expected()),
        },
        Some(value) => {
            known(value, &["type", "function"]).map_err(|e| e.context("tool_choice"))?;
            let name = value.get("function").and_then(|f| f.get("name")).and_then(Value::as_str);
            match (value.get("type").and_then(Value::as_str), name) {
                (Some("function"), Some(name)) => ToolChoice::Named(name.to_owned()),
                _ => return Err(expected()),
            }
        }
    };
    match &choice {
        ToolChoice::Required if functions.is_empty() => {
            Err(Error::input("tool_choice: \"required\", but there are no tools"))
        }
        ToolChoice::Named(name) if !functions.iter().any(|f| f.name == *name) => {
            Err(Error::input(format!("tool_choice: no tool has the name {name:?}")))
        }
        _ => Ok(choice),
    }
}

/// A choice of type `allowed_tools`: a choice among those of some names.
fn allowed_tools<'a>(choice: &'a Value, functions: &[Function]) -> Result<(ToolChoice, Vec<&'a str>)> {
    let at = |e: Error| e.context("tool_choice");
    known(choice, &["type", "allowed_tools"]).map_err(at)?;
    let allowed = &choice["allowed_tools"];
    known(allowed, &["mode", "tools"]).map_err(at)?;
    let choice = match allowed["mode"].as_str() {
        Some("auto") => ToolChoice::Auto,
        Some("required") => ToolChoice::Required,
        _ => return Err(Error::input("tool_choice: the mode must be \"auto\" or \"required\"")),
    };
    let tools = allowed["tools"].as_array().filter(|tools| !tools.is_empty());
    let tools = tools.ok_or_else(|| Error::input("tool_choice: expected a list of allowed tools"))?;
    let names = tools.iter().map(|tool| {
        let name = tool["function"]["name"].as_str().unwrap_or_default();
        match functions.iter().any(|f| f.name == name) {
            true => Ok(name),
            false => Err(Error::input(format!("tool_choice: no tool has the name {name:?}"))),
        }
    });
    Ok((choice, names.collect::<Result<_>>()?))
}

/// A call of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCall {
    /// The function.
    pub name: String,
    /// Its arguments, JSON as the model wrote it.
    pub arguments: String,
}

/// A whole answer at once: its text without the calls, and the calls.
pub fn split_calls(mut parser: ToolParser, answer: &str) -> (String, Vec<ToolCall>) {
    let mut events = parser.push(answer.as_bytes());
    events.extend(parser.finish());
    let (mut text, mut calls) = (String::new(), Vec::<Option<ToolCall>>::new());
    for event in events {
        match event {
            ToolEvent::Text(piece) => text += &piece,
            ToolEvent::Begin { name, .. } => calls.push(Some(ToolCall { name, arguments: String::new() })),
            ToolEvent::Arguments { delta, .. } => {
                if let Some(Some(call)) = calls.last_mut() {
                    call.arguments += &delta;
                }
            }
            ToolEvent::End { .. } => {}
            ToolEvent::Broken { raw, .. } => {
                calls.pop();
                text += &raw;
            }
        }
    }
    (text, calls.into_iter().flatten().collect())
}

#[cfg(test)]
#[path = "tools_tests.rs"]
mod tests;
