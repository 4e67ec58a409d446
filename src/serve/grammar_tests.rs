//! Whatever the logits, what the mask leaves is valid.

use super::*;
use crate::array::Device;
use crate::generate::{Batch, BatchItem, FinishReason, GenerateOptions, Generator};
use crate::models::{LoadOptions, Model};
use crate::ops::{Sample, sample_host};
use crate::serve::tools::{ToolCall, Tools, split_calls};
use std::collections::HashMap;

const TOKENIZERS: [&str; 6] = [
    "examples/storyteller",
    "tests/golden/tokenizer_gpt2",
    "tests/golden/tokenizer_qwen",
    "tests/golden/tokenizer_llama3",
    "tests/golden/tokenizer_mistral",
    "tests/golden/tokenizer_gemma",
];

fn path(folder: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)
}

/// Numbers without a pattern that matters.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let x = self.0 ^ (self.0 >> 31);
        x.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn unit(&mut self) -> f32 {
        (self.next() % (1 << 24)) as f32 / (1 << 24) as f32
    }
}

/// A tokenizer with its grammars, and the tokens that bring JSON to an end.
pub(in crate::serve) struct Setup {
    tokenizer: Tokenizer,
    pub(in crate::serve) grammars: Grammars,
    closing: Vec<bool>,
}

impl Setup {
    pub(in crate::serve) fn new(folder: &str) -> Self {
        let tokenizer = Tokenizer::open(path(folder)).unwrap();
        let tokens = tokenizer.token_bytes().unwrap();
        let vocab = tokens.len() + 7; // models pad their vocabulary
        let closes = |t: &TokenBytes| matches!(t, TokenBytes::Text(b) if b.len() < 3 && b.iter().all(|c| b"\"}] </>".contains(c)));
        let mut closing: Vec<bool> = tokens.iter().map(closes).collect();
        closing.resize(vocab, false);
        tokenizer.eos_token_ids().iter().for_each(|&id| closing[id as usize] = true);
        Self { grammars: Grammars::new(&tokenizer, vocab).unwrap(), tokenizer, closing }
    }

    /// An answer by random logits; those of closing tokens grow, so that it ends.
    fn answer(&self, constraint: &Constraint, random: &mut Random) -> String {
        let mut matcher = self.grammars.matcher(constraint).unwrap();
        let sample = Sample { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0 };
        let mut ids = Vec::new();
        for step in 0..4000 {
            let bonus = (step as f32 / 30.0 - 1.0).clamp(0.0, 12.0);
            let logit = |closing: &bool, random: &mut Random| {
                6.0 * random.unit() + if *closing { bonus } else { 0.0 }
            };
            let mut logits: Vec<f32> = self.closing.iter().map(|c| logit(c, random)).collect();
            matcher.mask(&mut logits).unwrap();
            let token = sample_host(&logits, &sample, random.unit());
            let allowed = matcher.allowed().unwrap();
            assert!(allowed[token as usize / 32] >> (token % 32) & 1 == 1);
            if self.tokenizer.eos_token_ids().contains(&token) {
                assert!(matcher.may_end().unwrap());
                return self.tokenizer.decode(&ids, true).unwrap();
            }
            ids.push(token);
            if matcher.accept(token).unwrap() {
                return self.tokenizer.decode(&ids, true).unwrap();
            }
        }
        panic!("no end: {:?}", self.tokenizer.decode(&ids, true));
    }
}

fn random_schema(random: &mut Random, depth: u64) -> Value {
    let low = random.below(40) as i64 - 20;
    let high = low + random.below(60) as i64;
    match random.below(if depth == 0 { 9 } else { 14 }) {
        0 => json!({"type": "null"}),
        1 => json!({"type": "boolean"}),
        2 => json!({"type": "integer", "minimum": low, "maximum": high}),
        3 => match random.below(5) {
            0 => json!({"type": "number", "exclusiveMinimum": low, "maximum": high as f64 + 0.5}),
            1 => json!({"type": "number", "minimum": low as f64 - 0.25, "exclusiveMaximum": low}),
            2 => json!({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.5}),
            3 => json!({"type": "integer", "multipleOf": 7}),
            _ => json!({"type": "number"}),
        },
        4 => json!({"type": "string", "minLength": random.below(4), "maxLength": 4 + random.below(20)}),
        5 => json!({"type": "string", "pattern": "^[a-f]{2,5}-[0-9]+$"}),
        6 => {
            let formats =
                ["date", "date-time", "uuid", "ipv4", "time", "email", "hostname", "ipv6", "duration", "uri"];
            json!({"type": "string", "format": formats[random.below(10) as usize]})
        }
        7 => json!({"enum": ["a", "ü \"quoted\" 🦀", 3, -1.5, null, true, {"k": [1]}]}),
        8 => json!({"type": ["integer", "null", "string"]}),
        9 => {
            let (least, item) = (random.below(3), random_schema(random, depth - 1));
            json!({"type": "array", "items": item, "minItems": least, "maxItems": least + random.below(3)})
        }
        10 => {
            let options: Vec<Value> = (0..2).map(|_| random_schema(random, depth - 1)).collect();
            json!({"anyOf": options})
        }
        11 => {
            let first = random_schema(random, depth - 1);
            json!({"type": "array", "prefixItems": [first, {"const": "x"}], "items": false, "minItems": 2})
        }
        12 => json!({"type": "object", "additionalProperties": {"$ref": "#/$defs/tree"}, "maxProperties": 3}),
        _ => {
            let names = ["name", "größe", "a b", "x\"y", "list"];
            let count = 1 + random.below(5) as usize;
            let fields: serde_json::Map<String, Value> =
                names.iter().take(count).map(|n| (n.to_string(), random_schema(random, depth - 1))).collect();
            let required: Vec<&str> =
                names.iter().take(count).copied().filter(|_| random.below(2) == 0).collect();
            json!({"type": "object", "properties": fields, "required": required,
                "additionalProperties": random.below(3) == 0, "description": "d"})
        }
    }
}

fn document(random: &mut Random) -> Value {
    let mut schema = random_schema(random, 3);
    let tree = json!({"type": "object", "properties": {"leaf": {"type": "integer"},
        "more": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2}}, "additionalProperties": false});
    schema["$defs"] = json!({"tree": tree});
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema
}

pub(in crate::serve) fn assert_valid(schema: &Value, text: &str, place: &str) {
    let value: Value =
        serde_json::from_str(text).unwrap_or_else(|e| panic!("{place}: {e} in {text:?} for {schema}"));
    let validator = jsonschema::options().should_validate_formats(true).build(schema).unwrap();
    if let Err(e) = validator.validate(&value) {
        panic!("{place}: {e} in {text} for {schema}");
    }
}

#[test]
fn random_logits_give_valid_json() {
    for folder in TOKENIZERS {
        let setup = Setup::new(folder);
        let mut random = Random(7);
        for n in 0..100 {
            let schema = document(&mut random);
            let constraint = Constraint::json_schema(&schema).unwrap();
            let text = setup.answer(&constraint, &mut random);
            assert_valid(&schema, &text, &format!("{folder} {n}"));
        }
        for _ in 0..5 {
            let text = setup.answer(&Constraint::json_object(), &mut random);
            assert!(serde_json::from_str::<Value>(&text).unwrap().is_object(), "{text}");
        }
    }
}

#[test]
fn text_matches_its_regular_expression() {
    let setup = Setup::new("examples/storyteller");
    let mut random = Random(3);
    for _ in 0..20 {
        let text = setup.answer(&Constraint::regex(r"(yes|no), (\d{2}/)+[äöü]{3}").unwrap(), &mut random);
        let (word, rest) = text.split_once(", ").unwrap();
        assert!(
            ["yes", "no"].contains(&word) && rest.chars().rev().take(3).all(|c| "äöü".contains(c)),
            "{text}"
        );
    }
    let bad = setup.grammars.matcher(&Constraint::regex("(a").unwrap()).unwrap_err();
    assert!(bad.is_input() && bad.to_string().ends_with("unclosed group"), "{bad}");
    assert!(bad.to_string().starts_with("invalid regex"), "{bad}");
    for regex in ["a\\", "[", "a{3,2}", "/\nstart: \"x\"", "\\/x\\"] {
        let outcome = Constraint::regex(regex).and_then(|constraint| setup.grammars.matcher(&constraint));
        assert!(outcome.is_err() || regex.starts_with('/'), "{regex}");
    }
    assert!(Constraint::regex("").is_err() && Constraint::regex(&"a".repeat(5000)).is_err());
}

fn tools(choice: &Value) -> Tools {
    let weather = json!({"type": "object", "properties": {"city": {"$ref": "#/$defs/city"}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["city", "days"], "additionalProperties": false, "$defs": {"city": {"type": "string", "maxLength": 20}}});
    let tools = json!([
        {"type": "function", "function": {"name": "weather", "parameters": weather, "strict": true}},
        {"type": "function", "function": {"name": "now"}},
    ]);
    Tools::parse(Some(&tools), Some(choice), None).unwrap()
}

fn assert_calls(tools: &Tools, calls: &[ToolCall]) {
    let schemas: HashMap<&str, &Option<Value>> =
        tools.functions().iter().map(|f| (f.name.as_str(), &f.parameters)).collect();
    for call in calls {
        let schema = schemas[call.name.as_str()].clone().unwrap_or(json!({"type": "object"}));
        assert_valid(&schema, &call.arguments, &call.name);
    }
}

#[test]
fn forced_calls_are_calls() {
    for (folder, format) in [
        ("tests/golden/tokenizer_qwen", ToolFormat::Hermes),
        ("tests/golden/tokenizer_llama3", ToolFormat::Llama3),
    ] {
        let setup = Setup::new(folder);
        let mut random = Random(11);
        for choice in [json!("required"), json!({"type": "function", "function": {"name": "weather"}})] {
            let tools = tools(&choice);
            let constraint = tools.constraint(format).unwrap().unwrap();
            for _ in 0..10 {
                let text = setup.answer(&constraint, &mut random);
                let (rest, calls) = split_calls(tools.parser(format).unwrap(), &text);
                assert!(rest.is_empty() && !calls.is_empty(), "{text}");
                assert!(choice.is_string() || calls.iter().all(|call| call.name == "weather"));
                assert_calls(&tools, &calls);
            }
        }
        let arguments = Constraint::tool_arguments(&tools(&json!("auto")).functions()[0]).unwrap();
        assert!(
            serde_json::from_str::<Value>(&setup.answer(&arguments, &mut random)).unwrap()["days"].is_i64()
        );
    }
}

#[test]
fn white_space_is_that_of_people() {
    let setup = Setup::new("examples/storyteller");
    let any = Constraint::json_object();
    for text in ["{\"a\":1}", "{ \"a\" : [1, 2] }", "{\n    \"a\": {\n\t\t\"b\": 2\n    }\n}"] {
        assert!(takes(&setup, &any, text), "{text}");
    }
    for text in ["{\"a\":  1}", "{\n\n\"a\": 1}", "[1]", "{\"a\": 1"] {
        assert!(!takes(&setup, &any, text), "{text}");
    }
}

/// Whether a matcher takes a text, and may end there.
pub(in crate::serve) fn takes(setup: &Setup, constraint: &Constraint, text: &str) -> bool {
    let mut matcher = setup.grammars.matcher(constraint).unwrap();
    for id in setup.tokenizer.encode(text, false).unwrap() {
        let allowed = matcher.allowed().unwrap();
        if allowed[id as usize / 32] >> (id % 32) & 1 == 0 {
            return false;
        }
        matcher.accept(id).unwrap();
    }
    matcher.may_end().unwrap()
}

#[test]
fn strict_functions_are_enforced_in_free_answers() {
    let tools = tools(&json!("auto"));
    let call = |arguments: &str| {
        format!("<tool_call>\n{{\"name\": \"weather\", \"arguments\": {arguments}}}\n</tool_call>")
    };
    let (good, bad) = (call("{\"city\": \"a\", \"days\": 2}"), call("{\"city\": \"a\", \"days\": 0}"));
    let setup = Setup::new("tests/golden/tokenizer_qwen");
    let constraint = tools.constraint(ToolFormat::Hermes).unwrap().unwrap();
    for text in [
        "",
        "Hello <tool> {",
        &good,
        &format!("Well.\n{good}\n{good}"),
        "<tool_call>\n{\"name\": \"now\", \"arguments\": {\"any\": 1}}\n</tool_call>",
    ] {
        assert!(takes(&setup, &constraint, text), "{text}");
    }
    for text in [&bad, &format!("Well. {bad}"), "<tool_call>\n{\"name\": \"other\"", "<tool_call>"] {
        assert!(!takes(&setup, &constraint, text), "{text}");
    }
    let setup = Setup::new("tests/golden/tokenizer_llama3");
    let constraint = tools.constraint(ToolFormat::Llama3).unwrap().unwrap();
    for text in ["", "Hello {", "{\"name\": \"weather\", \"parameters\": {\"city\": \"a\", \"days\": 2}}"] {
        assert!(takes(&setup, &constraint, text), "{text}");
    }
    assert!(!takes(
        &setup,
        &constraint,
        "{\"name\": \"weather\", \"parameters\": {\"city\": \"a\", \"days\": 0}}"
    ));
}

#[test]
fn reasoning_comes_before_the_form() {
    let setup = Setup::new("tests/golden/tokenizer_qwen");
    let schema = json!({"type": "integer", "maximum": 99});
    let form = || Constraint::json_schema(&schema).unwrap();
    let (open, closed) = (form().after_reasoning(true), form().after_reasoning(false));
    let thought = "I {think: \"12345678901234567890123456789012345\"</thin";
    assert!(takes(&setup, &open, &format!("{thought}</think>\n\n7")));
    assert!(!takes(&setup, &open, "7") && !takes(&setup, &open, "a</think>\n\nb"));
    assert!(takes(&setup, &closed, &format!("<think>{thought}</think>7")));
    assert!(
        takes(&setup, &closed, "7") && !takes(&setup, &closed, "a") && !takes(&setup, &closed, "<think>7")
    );
}

#[test]
fn a_model_keeps_to_the_form() {
    keeps_to_the_form(Device::CPU);
    if Device::GPU.or_fallback() == Device::GPU {
        keeps_to_the_form(Device::GPU);
    }
}

fn keeps_to_the_form(device: Device) {
    let folder = path("examples/storyteller");
    let options = LoadOptions { device: Some(device), ..LoadOptions::default() };
    let model = Model::load(&folder, options).unwrap();
    let tokenizer = Tokenizer::open(&folder).unwrap();
    let grammars = Grammars::new(&tokenizer, model.config().vocab_size).unwrap();
    let schema = json!({"type": "object", "properties": {
        "name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "friends": {"type": "array", "items": {"type": "string", "maxLength": 8}, "minItems": 1, "maxItems": 3},
        "animal": {"enum": ["dog", "cat"]}}, "required": ["name", "age", "friends", "animal"], "additionalProperties": false});
    let constraint = Constraint::json_schema(&schema).unwrap();
    let prompt = tokenizer.encode("Once upon a time there was a girl. ", true).unwrap();
    let options = |seed| GenerateOptions {
        temperature: if seed == 0 { 0.0 } else { 1.0 },
        seed,
        max_tokens: Some(400),
        ..GenerateOptions::default()
    };
    let mut generator = Generator::new(&model, None);
    let mut alone = Vec::new();
    for seed in 0..4 {
        let hook = Box::new(grammars.matcher(&constraint).unwrap());
        generator.prompt_hooked(&prompt, options(seed), hook).unwrap();
        let ids = generator.by_ref().collect::<Result<Vec<u32>>>().unwrap();
        assert_eq!(generator.finish_reason(), Some(FinishReason::Stop));
        assert_valid(&schema, &tokenizer.decode(&ids, true).unwrap(), "a generator");
        alone.push(ids);
    }
    generator.prompt(&prompt, GenerateOptions { max_tokens: Some(20), ..options(0) }).unwrap();
    let free = generator.by_ref().collect::<Result<Vec<u32>>>().unwrap();
    // Answers with a form and one without, side by side; another has a hook that fails.
    let mut batch = Batch::new(&model, 4, None).unwrap();
    let go = &mut |_: crate::nn::Progress<'_>| std::ops::ControlFlow::Continue(());
    for slot in 0..2 {
        let hook = Box::new(grammars.matcher(&constraint).unwrap());
        batch.prompt_with(slot, &prompt, options(slot as u64), &mut Some(hook), go).unwrap();
    }
    batch.prompt(2, &prompt, GenerateOptions { max_tokens: Some(20), ..options(0) }).unwrap();
    batch.prompt_with(3, &prompt, options(0), &mut Some(Box::new(Failing)), go).unwrap();
    let (mut ids, mut ends) = (vec![Vec::new(); 4], [None; 4]);
    while batch.is_active() {
        for &(slot, item) in batch.step().unwrap() {
            match item {
                BatchItem::Token(id) => ids[slot].push(id),
                BatchItem::End(reason) => ends[slot] = Some(reason),
            }
        }
    }
    for slot in 0..2 {
        assert_valid(&schema, &tokenizer.decode(&ids[slot], true).unwrap(), "a batch");
        // Elsewhere kernels for several rows round in another way.
        assert!(device != Device::CPU || ids[slot] == alone[slot]);
    }
    assert!(device != Device::CPU || ids[2] == free);
    assert_eq!(ids[3].len(), 3);
    let (stop, failed) = (Some(FinishReason::Stop), Some(FinishReason::Failed));
    assert_eq!(ends, [stop, stop, Some(FinishReason::Length), failed]);
    assert!(batch.failure(3).unwrap().to_string().contains("on purpose") && batch.failure(0).is_none());
}

struct Failing;

impl LogitsHook for Failing {
    fn adjust(&mut self, prompt: &[u32], answer: &[u32], _logits: &mut [f32]) -> Result<()> {
        assert!(!prompt.is_empty());
        if answer.len() < 3 { Ok(()) } else { Err(Error::input("on purpose")) }
    }
}
