//! Chat templates: from a conversation to the prompt that the model was trained on.
//!
//! Templates are Jinja, written for Python's Jinja2 and for what `transformers` adds to it. The engine
//! is `minijinja`, told to behave the same: `trim_blocks` and `lstrip_blocks`, loop controls,
//! `{% generation %}`, `raise_exception`, `strftime_now`, Python's string methods, and `tojson` and
//! printed values spelled as Python spells them.

use super::files::Files;
use super::json::{self, Fields};
use super::python;
use super::tokenizer::token_text;
use crate::error::{Error, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value as Jinja};
use minijinja::{AutoEscape, Environment, ErrorKind};
use serde_json::{Map, Value};
use std::path::Path;

/// A model's chat template (or several by name), compiled.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
    file: String,
    special_tokens: Map<String, Value>,
}

/// What a chat template renders.
///
/// ```
/// use serde_json::json;
/// let messages = [json!({"role": "user", "content": "Hello!"})];
/// let chat = unimlx::Chat { messages: &messages, add_generation_prompt: true, ..Default::default() };
/// let template = unimlx::ChatTemplate::new("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}")?;
/// assert_eq!(template.render(&chat)?, "<user>Hello!");
/// # Ok::<(), unimlx::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Chat<'a> {
    /// Objects with `role`, `content` (text or parts), perhaps `tool_calls`; as in OpenAI's API.
    pub messages: &'a [Value],
    /// Functions that the model may call; as in OpenAI's API.
    pub tools: Option<&'a [Value]>,
    /// Documents for retrieval, for templates that know them.
    pub documents: Option<&'a [Value]>,
    /// Whether to end with what begins an answer of the model.
    pub add_generation_prompt: bool,
    /// Whether to end inside the last message, for the model to continue it.
    pub continue_final_message: bool,
    /// Further variables for the template, such as `enable_thinking`.
    pub kwargs: Map<String, Value>,
}

impl ChatTemplate {
    /// Compiles a template that uses no special tokens.
    ///
    /// # Errors
    /// The template has a syntax error.
    pub fn new(source: &str) -> Result<Self> {
        Self::with_special_tokens(source, Map::new())
    }

    /// Compiles a template; `special_tokens` are variables that it may use: `bos_token`, `eos_token`, ...
    ///
    /// # Errors
    /// The template has a syntax error.
    pub fn with_special_tokens(source: &str, special_tokens: Map<String, Value>) -> Result<Self> {
        Self::compile("chat template".to_owned(), [("default".to_owned(), source.to_owned())], special_tokens)
    }

    /// Opens the template of a model folder: `chat_template.jinja`, else `chat_template` in
    /// `tokenizer_config.json` or in `chat_template.json`. `None` if there is none.
    ///
    /// # Errors
    /// A file cannot be read, or the template has a syntax error.
    pub fn open(folder: impl AsRef<Path>) -> Result<Option<Self>> {
        Self::from_files(&Files::folder(folder.as_ref())?)
    }

    pub(crate) fn from_files(files: &Files) -> Result<Option<Self>> {
        const JINJA: &str = "chat_template.jinja";
        const CONFIG: &str = "tokenizer_config.json";
        let mut special_tokens = Map::new();
        let mut found = match files.read(JINJA)? {
            None => None,
            Some(bytes) => {
                let file = files.describe(JINJA);
                let source = String::from_utf8(bytes.into_owned())
                    .map_err(|_| Error::format(format!("{file}: not UTF-8 text")))?;
                Some((file, vec![("default".to_owned(), source)]))
            }
        };
        for name in [CONFIG, "chat_template.json"] {
            let Some(bytes) = files.read(name)? else { continue };
            let file = files.describe(name);
            let value = json::parse(&file, &bytes)?;
            let fields = Fields::top(&file, &value)?;
            if name == CONFIG {
                let tokens = fields.iter().filter(|(key, _)| key.ends_with("_token"));
                special_tokens
                    .extend(tokens.filter_map(|(key, v)| Some((key.clone(), token_text(v)?.into()))));
            }
            if found.is_none() {
                found = named_templates(&fields)?.map(|templates| (file.clone(), templates));
            }
        }
        found.map(|(file, templates)| Self::compile(file, templates, special_tokens)).transpose()
    }

    fn compile(
        file: String,
        templates: impl IntoIterator<Item = (String, String)>,
        special_tokens: Map<String, Value>,
    ) -> Result<Self> {
        let mut env = environment();
        for (name, source) in templates {
            let source = scoped_generation_blocks(&source);
            env.add_template_owned(name, source)
                .map_err(|e| Error::format(format!("{file}: {}", explain(&e))))?;
        }
        Ok(Self { env, file, special_tokens })
    }

    /// Whether the template has a use for a variable.
    pub fn reads(&self, variable: &str) -> bool {
        self.env.templates().any(|(_, template)| template.undeclared_variables(false).contains(variable))
    }

    /// The prompt for a conversation.
    ///
    /// Messages are first tidied as `transformers` does: `null` fields are dropped, and
    /// `reasoning_content` is filled from `thinking` or `reasoning`.
    ///
    /// # Errors
    /// The template refuses the conversation (with its own message) or fails, or the message to continue
    /// does not appear in the prompt.
    pub fn render(&self, chat: &Chat<'_>) -> Result<String> {
        if chat.continue_final_message && chat.add_generation_prompt {
            return Err(Error::input("continue_final_message and add_generation_prompt exclude each other"));
        }
        let mut messages: Vec<Value> = chat.messages.iter().map(tidy).collect();
        if chat.continue_final_message {
            mark_end(&mut messages)?;
        }
        let list = |values: Option<&[Value]>| values.map_or(Value::Null, |v| Value::Array(v.to_vec()));
        let mut variables = self.special_tokens.clone();
        variables.extend(chat.kwargs.clone());
        variables.insert("messages".to_owned(), Value::Array(messages));
        variables.insert("tools".to_owned(), list(chat.tools));
        variables.insert("documents".to_owned(), list(chat.documents));
        variables.insert("add_generation_prompt".to_owned(), chat.add_generation_prompt.into());
        let name = if chat.tools.is_some() && self.env.get_template("tool_use").is_ok() {
            "tool_use"
        } else {
            "default"
        };
        let template = self
            .env
            .get_template(name)
            .map_err(|_| Error::format(format!("{}: no template named `default`", self.file)))?;
        let prompt = template
            .render(jinja(&Value::Object(variables)))
            .map_err(|e| Error::input(format!("{}: {}", self.file, explain(&e))))?;
        if chat.continue_final_message { cut_at_mark(&self.file, prompt) } else { Ok(prompt) }
    }
}

/// One template, or several with names.
fn named_templates(fields: &Fields<'_>) -> Result<Option<Vec<(String, String)>>> {
    const FIELD: &str = "chat_template";
    match fields.raw(FIELD) {
        None => Ok(None),
        Some(Value::String(source)) => Ok(Some(vec![("default".to_owned(), source.clone())])),
        Some(Value::Array(list)) => {
            let pair = |entry: &Value| {
                Some((entry.get("name")?.as_str()?.to_owned(), entry.get("template")?.as_str()?.to_owned()))
            };
            let pairs: Option<Vec<_>> = list.iter().map(pair).collect();
            pairs.map(Some).ok_or_else(|| fields.error(FIELD, "expected entries with `name` and `template`"))
        }
        Some(_) => Err(fields.error(FIELD, "expected a text or a list of named texts")),
    }
}

/// Steps of the template engine for one prompt: some hundred are needed for a message, and a template that loops
/// for ever ends within a second or two.
const FUEL: u64 = 20_000_000;

fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    env.set_fuel(Some(FUEL));
    if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
        env.set_syntax(syntax);
    }
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_unknown_method_callback(python::method);
    env.set_formatter(|out, _, value| out.write_str(&python::text(value)).map_err(Into::into));
    env.add_filter("string", |value: Jinja| python::text(&value));
    env.add_filter("tojson", tojson);
    env.add_filter("default", default);
    env.add_filter("d", default);
    env.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    env.add_function("strftime_now", |format: String| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        python::strftime(&format, now.map_or(0, |d| d.as_secs()))
    });
    env
}

/// Jinja2's `default`, whose second argument may be named.
fn default(
    value: Jinja,
    other: Option<Jinja>,
    falsy_too: Option<bool>,
    options: Kwargs,
) -> Result<Jinja, minijinja::Error> {
    let named: Option<Jinja> = options.get("default_value")?;
    let falsy_too = falsy_too.or(options.get("boolean")?).unwrap_or(false);
    options.assert_all_used()?;
    let absent = value.is_undefined() || (falsy_too && !value.is_true());
    Ok(if absent { other.or(named).unwrap_or_else(|| Jinja::from("")) } else { value })
}

/// `tojson` as `transformers` defines it: `json.dumps` that leaves other alphabets alone.
fn tojson(value: Jinja, options: Kwargs) -> Result<String, minijinja::Error> {
    let indent = match options.get::<Option<Jinja>>("indent")?.filter(|v| !v.is_none()) {
        None => None,
        Some(v) => Some(match v.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(v)?.min(100)),
        }),
    };
    let separators: Option<Vec<String>> = options.get("separators")?;
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        _ if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        _ => (", ".to_owned(), ": ".to_owned()),
    };
    let layout = python::Dumps {
        indent,
        item_separator: item,
        key_separator: key,
        ensure_ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    layout.dumps(&value)
}

/// `{% generation %}` marks what to train on; for rendering it is only a scope.
fn scoped_generation_blocks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let Some(end) = tag.find("%}") else { break };
        let (tag, after) = tag.split_at(end + 2);
        let word = tag.trim_matches(|c: char| "{%}-+".contains(c) || c.is_whitespace());
        match word {
            "generation" => out.push_str(&tag.replace("generation", "with")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endwith")),
            _ => out.push_str(tag),
        }
        rest = after;
        if rest.is_empty() {
            return out;
        }
    }
    out.push_str(rest);
    out
}

/// A template's error with its causes. What `raise_exception` said is part of it.
fn explain(error: &minijinja::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(e) = cause {
        text.push_str(&format!(": {e}"));
        cause = e.source();
    }
    text
}

fn tidy(message: &Value) -> Value {
    let Value::Object(fields) = message else { return message.clone() };
    let mut fields: Map<_, _> =
        fields.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect();
    if !fields.contains_key("reasoning_content")
        && let Some(text) = fields.get("thinking").or(fields.get("reasoning")).cloned()
    {
        fields.insert("reasoning_content".to_owned(), text);
    }
    Value::Object(fields)
}

/// Stands at the end of the message to be continued while the template renders. The space tells whether
/// the template trims messages.
const MARK: &str = "\u{2063}continue here\u{2063} ";

/// Puts the mark at the end of the last message's (last) text.
fn mark_end(messages: &mut [Value]) -> Result<()> {
    let content = messages.last_mut().and_then(|message| message.get_mut("content"));
    let text = match content {
        Some(Value::Array(parts)) => parts.iter_mut().rev().find_map(|part| part.get_mut("text")),
        other => other,
    };
    match text {
        Some(Value::String(text)) => {
            text.push_str(MARK);
            Ok(())
        }
        _ => Err(Error::input("continue_final_message needs a last message with text")),
    }
}

fn cut_at_mark(file: &str, mut prompt: String) -> Result<String> {
    let Some(at) = prompt.rfind(MARK.trim_end()) else {
        return Err(Error::input(format!("{file}: the template leaves out the message to continue")));
    };
    let trimmed = !prompt[at..].starts_with(MARK);
    prompt.truncate(at);
    if trimmed {
        prompt.truncate(prompt.trim_end().len());
    }
    Ok(prompt)
}

/// JSON as the template engine holds it; keys keep their order.
fn jinja(value: &Value) -> Jinja {
    match value {
        Value::Null => Jinja::from(()),
        Value::Bool(b) => Jinja::from(*b),
        Value::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(n), _) => Jinja::from(n),
            (None, Some(n)) => Jinja::from(n),
            (None, None) => Jinja::from(n.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(s) => Jinja::from(s.as_str()),
        Value::Array(list) => list.iter().map(jinja).collect(),
        Value::Object(map) => Jinja::from_pairs(map.iter().map(|(k, v)| (k.as_str(), jinja(v)))),
    }
}

#[cfg(test)]
#[path = "chat_template_tests.rs"]
mod tests;
