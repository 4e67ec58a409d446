//! Answers of a given form: JSON, JSON of a schema, a regular expression, tool calls.
//!
//! A [`Constraint`] says what is wanted. [`Grammars`] knows a vocabulary and turns a constraint into a
//! [`Matcher`], which follows one answer: before each token it rules out those that cannot come next
//! ([`Matcher::mask`]), and it takes note of the one that comes ([`Matcher::accept`]). As a [`LogitsHook`] it does both by
//! itself. The grammar work is done by the crate `llguidance`.

use super::numbers::Numbers;
use super::schema::{self, Checked};
use super::tools::{Function, ToolFormat};
use crate::error::{Error, Result};
use crate::generate::LogitsHook;
use crate::io::{TokenBytes, Tokenizer};
use llguidance::api::{StopReason, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, INVALID_TOKEN, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{ParserFactory, regex_to_lark};
use serde_json::{Value, json};
use std::fmt::Write;
use std::sync::Arc;

/// Stack for the compiler: it recurses along references, at most as many as a schema may have parts.
const STACK: usize = 128 << 20;
/// Parts of a refused schema that are tried one by one to find the one at fault.
const TRIALS: usize = 256;
/// White space between the parts of JSON: a space, or a line break with its indentation.
const SPACE: &str = r" |\r?\n[ \t]{0,64}";

/// What an answer must look like.
#[derive(Clone, Debug)]
pub struct Constraint {
    /// The rule `answer` and what it needs, in `llguidance`'s notation.
    rules: String,
    /// The schemas within, to find what is wrong with one.
    schemas: Vec<(String, Checked)>,
    json: bool,
    reasoning: Option<bool>,
}

impl Constraint {
    fn new(json: bool) -> Self {
        Self { rules: String::new(), schemas: Vec::new(), json, reasoning: None }
    }

    /// Any JSON object.
    pub fn json_object() -> Self {
        let mut constraint = Self::new(true);
        constraint.rules = format!("answer: %json {}\n", compiled(&json!({"type": "object"})));
        constraint
    }

    /// JSON that is valid under a schema (draft 2020-12).
    ///
    /// # Errors
    /// A malformed schema, a keyword that cannot be enforced, a schema that is too large; the message names
    /// the place as a JSON pointer.
    pub fn json_schema(schema: &Value) -> Result<Self> {
        let mut constraint = Self::new(true);
        let rule = constraint.json("the schema", schema)?;
        constraint.rules = format!("answer: {rule}\n");
        Ok(constraint)
    }

    /// Text that a regular expression matches as a whole (syntax of the crate `regex`).
    ///
    /// # Errors
    /// Empty, too long, a `\` at the end. Bad syntax shows when it is compiled: [`Grammars::matcher`].
    pub fn regex(regex: &str) -> Result<Self> {
        if regex.is_empty() || regex.len() > schema::MOST_PATTERN {
            let (n, most) = (regex.len(), schema::MOST_PATTERN);
            return Err(Error::input(format!("a regular expression of {n} bytes, expected 1 to {most}")));
        }
        if schema::ends_in_escape(regex) {
            return Err(Error::input("the regular expression ends in `\\`"));
        }
        let mut constraint = Self::new(false);
        constraint.rules = format!("answer: /{}/\n", regex_to_lark(regex, ""));
        Ok(constraint)
    }

    /// The arguments of a call of `function`, as JSON.
    ///
    /// # Errors
    /// As [`Constraint::json_schema`].
    pub fn tool_arguments(function: &Function) -> Result<Self> {
        let mut constraint = Self::new(true);
        let rule = constraint.arguments(function)?;
        constraint.rules = format!("answer: {rule}\n");
        Ok(constraint)
    }

    /// A call of one of `functions` as a model writes it; several in a row if `several` and the format has them.
    ///
    /// # Errors
    /// As [`Constraint::json_schema`]; no functions.
    pub fn tool_calls(functions: &[&Function], format: ToolFormat, several: bool) -> Result<Self> {
        if functions.is_empty() {
            return Err(Error::input("a tool call is required, but there are no tools"));
        }
        let mut constraint = Self::new(true);
        let calls: Vec<String> = (0..functions.len()).map(|i| format!("call_{i}")).collect();
        let mut rules = match format {
            ToolFormat::Hermes if several => "answer: call (\"\\n\" call)* \"\\n\"?\n",
            ToolFormat::Hermes | ToolFormat::Llama3 => "answer: call\n",
        }
        .to_owned();
        let (open, key, close) = match format {
            ToolFormat::Hermes => ("\"<tool_call>\\n\" ", "arguments", " \"\\n</tool_call>\""),
            ToolFormat::Llama3 => ("", "parameters", ""),
        };
        let _ = writeln!(rules, "call: {open}({}){close}", calls.join(" | "));
        for (function, call) in functions.iter().zip(calls) {
            let head = format!("{{\"name\": {}, \"{key}\": ", Value::from(function.name.as_str()));
            let arguments = constraint.arguments(function)?;
            let _ = writeln!(rules, "{call}: {} {call}_arguments \"}}\"", Value::from(head));
            let _ = writeln!(rules, "{call}_arguments: {arguments}");
        }
        constraint.rules = rules;
        Ok(constraint)
    }

    /// An answer that is text, or calls of `functions`, or both, as the model decides; arguments of strict
    /// functions are valid, those of others JSON objects.
    ///
    /// # Errors
    /// As [`Constraint::json_schema`], for strict functions.
    pub fn tool_calls_or_text(functions: &[&Function], format: ToolFormat, several: bool) -> Result<Self> {
        let loose: Vec<Function> = functions.iter().map(|&f| f.loose()).collect();
        let mut constraint = Self::tool_calls(&loose.iter().collect::<Vec<_>>(), format, several)?;
        // Numbers are counted only where all is JSON.
        constraint.json = false;
        let calls = constraint.rules.split_once('\n').map_or("", |(_, calls)| calls);
        constraint.rules = match format {
            ToolFormat::Hermes => {
                let calls = calls.replacen("call: \"<tool_call>\\n\" ", "call: lead \"\\n\"? ", 1);
                let times = if several { "*" } else { "?" };
                format!(
                    "answer: call{times} REST\nlead[lazy]: /(?s:.*)<tool_call>/\n\
                     REST: /(?s:.*)/ & ~/(?s:.*)<tool_call>(?s:.*)/\n{calls}"
                )
            }
            ToolFormat::Llama3 => format!("answer: call | REST\nREST: /(\\s*[^{{\\s](?s:.*))?/\n{calls}"),
        };
        Ok(constraint)
    }

    /// Either of two; at most one of them is made of tool calls.
    #[must_use]
    pub(super) fn or(mut self, other: Self) -> Self {
        self.rules = format!("answer: this_answer | that_answer\nthis_{}that_{}", self.rules, other.rules);
        self.schemas.extend(other.schemas);
        self.json &= other.json;
        self
    }

    /// The same after the model's reasoning, which is free. `open` if the prompt has begun it already, as some
    /// templates do; otherwise it may come or not.
    #[must_use]
    pub fn after_reasoning(mut self, open: bool) -> Self {
        self.reasoning = Some(open);
        self
    }

    fn arguments(&mut self, function: &Function) -> Result<String> {
        let any = json!({"type": "object"});
        let schema = match &function.parameters {
            Some(Value::Object(fields)) if fields.is_empty() => &any,
            Some(schema) => schema,
            None => &any,
        };
        self.json(&format!("the parameters of {}", function.name), schema)
    }

    fn json(&mut self, what: &str, schema: &Value) -> Result<String> {
        let checked = schema::check(schema).map_err(|e| e.context(what))?;
        let rule = format!("%json {}", compiled(&checked.schema));
        self.schemas.push((what.to_owned(), checked));
        Ok(rule)
    }

    fn grammar(&self) -> TopLevelGrammar {
        let start = match self.reasoning {
            None => "start: answer\n",
            Some(true) => {
                "start: thought (\"\\n\" | \"\\n\\n\")? answer\nthought[lazy]: /(?s:.*)<\\/think>/\n"
            }
            Some(false) => {
                "start: (thought (\"\\n\" | \"\\n\\n\")?)? answer\nthought[lazy]: /<think>(?s:.*)<\\/think>/\n"
            }
        };
        TopLevelGrammar::from_lark(format!("{start}{}", self.rules))
    }
}

/// A schema as the compiler gets it.
fn compiled(schema: &Value) -> Value {
    let mut schema = match schema {
        Value::Object(_) => schema.clone(),
        Value::Bool(false) => json!({"anyOf": [false]}),
        _ => json!({}),
    };
    if let Value::Object(fields) = &mut schema {
        let options = json!({"whitespace_flexible": true, "whitespace_pattern": SPACE});
        fields.insert("x-guidance".to_owned(), options);
    }
    schema
}

/// Compiles constraints for the vocabulary of a model. Cloning is cheap.
#[derive(Clone)]
pub struct Grammars(Arc<ParserFactory>);

impl Grammars {
    /// For a tokenizer, and a model whose logits have `vocab` entries.
    ///
    /// # Errors
    /// The tokenizer's tokens are not known byte by byte: [`Tokenizer::token_bytes`].
    pub fn new(tokenizer: &Tokenizer, vocab: usize) -> Result<Self> {
        let mut words: Vec<Vec<u8>> = Vec::with_capacity(vocab);
        for token in tokenizer.token_bytes()? {
            words.push(match token {
                TokenBytes::Text(bytes) => bytes,
                // The mark keeps it out of any text.
                TokenBytes::Special(name) => [&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat(),
                TokenBytes::None => Vec::new(),
            });
        }
        words.resize(words.len().max(vocab), Vec::new());
        // The trie has room for 1024 bytes of depth; longer tokens can be spelled by others.
        words.iter_mut().filter(|word| word.len() > 1000).for_each(Vec::clear);
        let count = words.len() as u32;
        let ends: Vec<u32> = tokenizer.eos_token_ids().iter().copied().filter(|&id| id < count).collect();
        let info = TokRxInfo::new(count, ends.first().copied().unwrap_or(INVALID_TOKEN));
        let trie = guarded(|| Ok::<_, Error>(TokTrie::from(&info, &words)))?;
        let trie = if ends.is_empty() { trie } else { trie.with_eos_tokens(&ends) };
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = guarded(|| ParserFactory::new_simple(&env))?;
        factory.quiet();
        let limits = factory.limits_mut();
        limits.verbose_errors = false; // they would hold the prompt
        limits.max_lexer_states = 50_000;
        limits.max_grammar_size = 200_000;
        Ok(Self(Arc::new(factory)))
    }

    /// Compiles a constraint. Time and memory are bounded.
    ///
    /// # Errors
    /// A constraint that cannot be met or is too complex; the message names the place in the schema.
    pub fn matcher(&self, constraint: &Constraint) -> Result<Matcher> {
        let compile = || match self.first(constraint.grammar()) {
            Ok(matcher) => Ok(matcher),
            Err(e) => Err(self.blame(constraint, &e)),
        };
        let inner = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(STACK);
            let failed = || Error::input("the grammar cannot be compiled");
            let thread = thread.spawn_scoped(scope, compile).map_err(Error::memory)?;
            thread.join().map_err(|_| failed())?
        })?;
        Ok(Matcher {
            inner,
            env: self.0.tok_env().clone(),
            numbers: constraint.json.then(|| Numbers::new(constraint.reasoning)),
        })
    }

    /// A matcher, after a trial of its first token.
    fn first(&self, grammar: TopLevelGrammar) -> Result<llguidance::Matcher> {
        let parser = guarded(|| self.0.create_parser(grammar))?;
        let mut matcher = llguidance::Matcher::new(Ok(parser));
        match matcher.compute_mask() {
            Ok(set) if !set.is_zero() => Ok(matcher),
            Ok(_) => Err(Error::input("nothing is valid here")),
            Err(e) if e.to_string().contains(&StopReason::NoExtensionBias.to_string()) => {
                Err(Error::input("nothing is valid here"))
            }
            Err(e) => Err(Error::input(brief(&e.to_string()))),
        }
    }

    /// The innermost part of a schema that cannot be compiled even alone.
    fn blame(&self, constraint: &Constraint, error: &Error) -> Error {
        for (what, checked) in &constraint.schemas {
            let mut at_fault = None;
            for place in checked.places.iter().rev().take(TRIALS) {
                let Some(Value::Object(part)) = checked.schema.pointer(place) else { continue };
                let mut part = part.clone();
                for key in ["$defs", "definitions"] {
                    if let Some(definitions) = checked.schema.get(key) {
                        part.entry(key).or_insert_with(|| definitions.clone());
                    }
                }
                let rules = format!("start: %json {}\n", compiled(&Value::Object(part)));
                if let Err(e) = self.first(TopLevelGrammar::from_lark(rules))
                    && !e.to_string().contains("Reference segment")
                {
                    at_fault = Some((place, e));
                    break;
                }
            }
            if let Some((place, e)) = at_fault {
                return e.context(schema::shown(place)).context(what);
            }
        }
        error.clone()
    }
}

impl std::fmt::Debug for Grammars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Grammars({} tokens)", self.0.tok_env().tok_trie().vocab_size())
    }
}

/// Calls into `llguidance`; a panic there becomes an error, and long messages become short.
fn guarded<T, E: std::fmt::Display>(call: impl FnOnce() -> Result<T, E>) -> Result<T> {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call));
    match outcome {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => Err(Error::input(brief(&e.to_string()))),
        Err(_) => Err(Error::input("the grammar cannot be compiled")),
    }
}

/// What is wrong, without the grammar around it.
fn brief(text: &str) -> String {
    let line = text.lines().next().unwrap_or("");
    let line = line.rsplit_once("failed to compile JSON schema: ").map_or(line, |(_, rest)| rest);
    // A regular expression's is said after it, and at a place of the grammar that we have made around it.
    let cause = text.lines().find_map(|line| line.trim_start().strip_prefix("error: "));
    let line = match (line.split_once("): "), cause) {
        (Some((place, rest)), Some(cause)) if place.starts_with("at ") => format!("{rest} {cause}"),
        _ => line.to_owned(),
    };
    line.chars().take(300).collect()
}

/// Follows one answer.
pub struct Matcher {
    inner: llguidance::Matcher,
    env: TokEnv,
    numbers: Option<Numbers>,
}

impl Matcher {
    /// A copy that goes on by itself from here; far cheaper than to compile the form again.
    #[must_use]
    pub fn another(&self) -> Self {
        Self { inner: self.inner.deep_clone(), env: self.env.clone(), numbers: self.numbers }
    }

    /// The tokens that may come next, one bit for each id, 32 to a word; end tokens are among them where the
    /// answer may end.
    ///
    /// # Errors
    /// The grammar grew too complex on the way.
    pub fn allowed(&mut self) -> Result<Vec<u32>> {
        Ok(self.set()?.as_slice().to_vec())
    }

    fn set(&mut self) -> Result<SimpleVob> {
        let mut set = self.inner.compute_mask_or_eos().map_err(|e| failed(&e))?;
        if let Some(numbers) = self.numbers.as_ref().filter(|numbers| numbers.is_long()) {
            let trie = self.env.tok_trie();
            let mut shorter = set.clone();
            set.iter_set_entries(|id| {
                if numbers.exceeds(trie.token(id as u32)) {
                    shorter.disallow_token(id as u32);
                }
            });
            if !shorter.is_zero() {
                set = shorter;
            }
        }
        Ok(set)
    }

    /// Sets the logits of all tokens that cannot come next to minus infinity. Where JSON or a tool call may end, it
    /// does so if the token that the model likes best is one that cannot come next.
    ///
    /// # Errors
    /// The grammar grew too complex on the way; no token is left.
    pub fn mask(&mut self, logits: &mut [f32]) -> Result<()> {
        let set = self.set()?;
        let words = set.as_slice();
        let may = |id: usize| words.get(id / 32).is_some_and(|word| word >> (id % 32) & 1 == 1);
        let (mut likeliest, mut best) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
        for (id, &logit) in logits.iter().enumerate() {
            likeliest = likeliest.max(logit);
            best = if may(id) { best.max(logit) } else { best };
        }
        let ends = self.env.tok_trie().eos_tokens();
        let is_end = |id: usize| ends.iter().any(|&end| end as usize == id);
        let possible = |&id: &u32| may(id as usize) && logits.get(id as usize).is_some_and(|l| l.is_finite());
        let json = self.numbers.is_some();
        let ended = json && best < likeliest && ends.iter().any(possible);
        let mut left = false;
        for (id, logit) in logits.iter_mut().enumerate() {
            if may(id) && (!ended || is_end(id)) {
                left |= *logit > f32::NEG_INFINITY;
            } else {
                *logit = f32::NEG_INFINITY;
            }
        }
        if left { Ok(()) } else { Err(Error::input("no token can continue the answer in its required form")) }
    }

    /// Takes note of the next token; returns whether the answer is complete, so that nothing may follow.
    ///
    /// # Errors
    /// The token is not among those that may come.
    pub fn accept(&mut self, token: u32) -> Result<bool> {
        if token as usize >= self.env.tok_trie().vocab_size() {
            return Err(Error::input(format!("token {token} is beyond the vocabulary")));
        }
        self.inner.consume_token(token).map_err(|e| failed(&e))?;
        if let Some(numbers) = &mut self.numbers {
            numbers.read(self.env.tok_trie().token(token));
        }
        Ok(self.inner.is_stopped())
    }

    /// Whether the answer may end here.
    ///
    /// # Errors
    /// The matcher has failed before.
    pub fn may_end(&mut self) -> Result<bool> {
        self.inner.is_accepting().map_err(|e| failed(&e))
    }
}

fn failed(error: &dyn std::fmt::Display) -> Error {
    Error::input(format!("the answer's required form: {}", brief(&error.to_string())))
}

impl LogitsHook for Matcher {
    fn adjust(&mut self, _prompt: &[u32], _answer: &[u32], logits: &mut [f32]) -> Result<()> {
        self.mask(logits)
    }

    fn took(&mut self, token: u32) -> Result<bool> {
        self.accept(token)
    }
}

impl std::fmt::Debug for Matcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Matcher({})", self.inner.stop_reason())
    }
}

#[cfg(test)]
#[path = "grammar_tests.rs"]
pub(super) mod tests;
