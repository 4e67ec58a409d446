//! Tokenizers and chat templates against transformers, text by text and id by id.

use serde_json::Value;
use std::path::{Path, PathBuf};
use unimlx::{Chat, ChatTemplate, Tokenizer};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn read(path: &Path) -> Value {
    let text = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as u32).collect()
}

/// Folders under tests/golden whose name starts so.
fn folders(prefix: &str) -> Vec<PathBuf> {
    let mut all: Vec<_> = std::fs::read_dir(golden()).unwrap().map(|e| e.unwrap().path()).collect();
    all.retain(|p| p.is_dir() && p.file_name().unwrap().to_str().unwrap().starts_with(prefix));
    all.sort();
    assert!(!all.is_empty(), "no fixture {prefix}*");
    all
}

/// Decodes one id at a time; the pieces must be whole characters by construction.
fn streamed(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) -> String {
    let mut stream = tokenizer.stream(skip_special);
    let mut text: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    text += &stream.finish().unwrap();
    text
}

#[test]
fn tokenizers_agree_with_the_reference() {
    for folder in folders("tokenizer_") {
        let tokenizer = Tokenizer::open(&folder).unwrap();
        let golden = read(&folder.join("golden.json"));
        assert_eq!(tokenizer.vocab_size() as u64, golden["vocab_size"].as_u64().unwrap());
        let eos = golden["special_ids"]["eos_token"].as_u64().unwrap() as u32;
        assert_eq!(tokenizer.eos_token_ids(), [eos]);
        let cases = golden["cases"].as_array().unwrap();
        assert!(cases.len() >= 50);
        for case in cases {
            let text = case["text"].as_str().unwrap();
            let with = tokenizer.encode(text, true).unwrap();
            assert_eq!(with, ids(&case["ids"]), "{}: {text:?}", folder.display());
            assert_eq!(tokenizer.encode(text, false).unwrap(), ids(&case["ids_no_special"]), "{text:?}");
        }
        for case in cases.iter().chain(golden["random_ids"].as_array().unwrap()) {
            let ids = ids(&case["ids"]);
            for (field, skip) in [("decoded", false), ("decoded_skip_special", true)] {
                let expected = case[field].as_str().unwrap();
                assert_eq!(tokenizer.decode(&ids, skip).unwrap(), expected, "{}: {ids:?}", folder.display());
                assert_eq!(streamed(&tokenizer, &ids, skip), expected, "{}: {ids:?}", folder.display());
            }
        }
    }
}

/// Long random walks through the vocabulary, special and byte tokens included: streaming is decoding.
#[test]
fn streams_concatenate_to_the_whole_decoding() {
    for folder in folders("tokenizer_") {
        let tokenizer = Tokenizer::open(&folder).unwrap();
        let mut seed = 7u64;
        for length in (1..200).step_by(7) {
            let mut next = || {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                ((seed >> 33) % (tokenizer.vocab_size() as u64 + 3)) as u32
            };
            let mut ids: Vec<u32> = (0..length).map(|_| next()).collect();
            if length % 2 == 0 {
                ids.iter_mut().for_each(|id| *id %= 300); // mostly bytes
            }
            for skip in [false, true] {
                let whole = tokenizer.decode(&ids, skip).unwrap();
                assert_eq!(streamed(&tokenizer, &ids, skip), whole, "{}: {ids:?}", folder.display());
            }
        }
    }
}

/// Bytes that make no character come out as they arrive, and what follows them is right.
#[test]
fn long_runs_of_wrong_bytes_stream_as_well() {
    for folder in folders("tokenizer_") {
        let tokenizer = Tokenizer::open(&folder).unwrap();
        let is_lone = |id: &u32| tokenizer.decode(&[*id], false).unwrap() == "\u{fffd}";
        let Some(lone) = (0..tokenizer.vocab_size() as u32).find(is_lone) else { continue };
        let text = tokenizer.encode("Grüße, 你好 🦀", false).unwrap();
        for n in [1, 31, 32, 33, 34, 100, 500] {
            let ids = [&text[..], &vec![lone; n], &text, &vec![lone; n]].concat();
            let whole = tokenizer.decode(&ids, true).unwrap();
            assert_eq!(streamed(&tokenizer, &ids, true), whole, "{}: {n} of {lone}", folder.display());
        }
    }
}

/// A text that has too many tokens is not read to its end, and every other is as it would be.
#[test]
fn long_texts_are_tokenized_only_as_far_as_they_are_of_use() {
    for folder in folders("tokenizer_") {
        let tokenizer = Tokenizer::open(&folder).unwrap();
        for text in ["one two ", "日本 🦀", " "] {
            let text = text.repeat(3000);
            let all = tokenizer.encode(&text, true).unwrap();
            assert_eq!(tokenizer.encode_within(&text, true, all.len()).unwrap(), (all.clone(), true));
            let (some, whole) = tokenizer.encode_within(&text, true, 5).unwrap();
            assert!(whole && some == all || some.len() > 5 && some.len() < all.len(), "{}", folder.display());
            assert!(!whole || text.len() < 4000, "{}", folder.display());
        }
        assert!(tokenizer.encode_within("one two", false, 0).unwrap().1);
    }
}

/// Ordinary text comes out as it is decoded, not all at the end.
#[test]
fn streams_do_not_hold_text_back_needlessly() {
    for folder in folders("tokenizer_") {
        let tokenizer = Tokenizer::open(&folder).unwrap();
        let ids = tokenizer.encode("The quick brown fox jumps over the lazy dog.", false).unwrap();
        let mut stream = tokenizer.stream(true);
        let silent = ids.iter().filter(|&&id| stream.push(id).unwrap().is_empty()).count();
        assert!(silent <= 1, "{}: {silent} of {} tokens without text", folder.display(), ids.len());
        assert_eq!(stream.finish().unwrap(), "");
    }
}

fn render(template: &ChatTemplate, case: &Value) -> unimlx::Result<String> {
    let list = |field: &str| case.get(field).and_then(Value::as_array).map(Vec::as_slice);
    let flag = |field: &str| case.get(field).and_then(Value::as_bool).unwrap_or(false);
    template.render(&Chat {
        messages: list("messages").unwrap(),
        tools: list("tools"),
        documents: list("documents"),
        add_generation_prompt: flag("add_generation_prompt"),
        continue_final_message: flag("continue_final_message"),
        kwargs: case.get("kwargs").and_then(Value::as_object).cloned().unwrap_or_default(),
    })
}

#[test]
fn chat_templates_agree_with_the_reference() {
    let folder = golden().join("chat_templates");
    let (mut rendered, mut refused) = (0, 0);
    for entry in std::fs::read_dir(&folder).unwrap() {
        let golden = read(&entry.unwrap().path());
        let special = ["bos_token", "eos_token"].into_iter();
        let special = special.filter(|t| golden[t].is_string()).map(|t| (t.to_owned(), golden[t].clone()));
        let source = golden["template"].as_str().unwrap();
        let template = ChatTemplate::with_special_tokens(source, special.collect()).unwrap();
        let tokenizer = Tokenizer::open(folder.join(golden["tokenizer"].as_str().unwrap())).unwrap();
        for case in golden["cases"].as_array().unwrap() {
            let name = format!("{}/{}", golden["name"], case["name"]);
            match (render(&template, case), case.get("rendered").and_then(Value::as_str)) {
                (Ok(prompt), Some(expected)) => {
                    assert_eq!(prompt, expected, "{name}");
                    assert_eq!(tokenizer.encode(&prompt, false).unwrap(), ids(&case["ids"]), "{name}");
                    rendered += 1;
                }
                (Err(e), None) => {
                    let message = case["error"].as_str().unwrap();
                    let said = case["error_type"] != "TemplateError" || e.to_string().contains(message);
                    assert!(said, "{name}: {e}: expected {message}");
                    refused += 1;
                }
                (got, expected) => panic!("{name}: {got:?}, expected {expected:?}"),
            }
        }
    }
    assert!(rendered > 60 && refused > 5, "{rendered} rendered, {refused} refused");
}

/// Each model folder's own template and tokenizer, as a user of the model meets them.
#[test]
fn model_folders_render_and_tokenize() {
    for arch in ["llama", "mistral", "qwen2", "qwen3"] {
        for folder in folders(arch) {
            let golden = read(&folder.join("golden.json"));
            let tokenizer = Tokenizer::open(folder.join("model")).unwrap();
            for prompt in golden["prompts"].as_object().unwrap().values() {
                let text = prompt["text"].as_str().unwrap();
                assert_eq!(
                    tokenizer.encode(text, true).unwrap(),
                    ids(&prompt["ids"]),
                    "{}",
                    folder.display()
                );
            }
            let Some(chat) = golden.get("chat").filter(|c| c.is_object()) else { continue };
            let template = ChatTemplate::open(folder.join("model")).unwrap().unwrap();
            let prompt = render(&template, chat).unwrap();
            assert_eq!(prompt, chat["rendered"].as_str().unwrap(), "{}", folder.display());
            assert_eq!(tokenizer.encode(&prompt, false).unwrap(), ids(&chat["ids"]), "{}", folder.display());
        }
    }
}

const ROUNDS: usize = 100;

/// Damaged JSON: an error or a tokenizer, never a panic.
#[test]
fn damaged_tokenizers_never_panic() {
    let mut seed = 3u64;
    let mut next = move |n: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % n
    };
    let mut opened = 0;
    for folder in folders("tokenizer_") {
        let good = std::fs::read(folder.join("tokenizer.json")).unwrap();
        for _ in 0..ROUNDS {
            let mut bad = good.clone();
            for _ in 0..=next(3) {
                let at = next(bad.len());
                match next(3) {
                    0 => bad[at] = b"0123456789\"[]{},:ntf-ae\\"[next(24)],
                    1 => drop(bad.drain(at..(at + next(40)).min(bad.len()))),
                    _ => bad.swap(at, at / 2),
                }
            }
            if let Ok(tokenizer) = Tokenizer::from_bytes(&bad) {
                opened += 1;
                if let Ok(ids) = tokenizer.encode("Hello <s> wörld\n 12 </s>", true) {
                    let _ = tokenizer.decode(&ids, false);
                    streamed(&tokenizer, &ids, true);
                }
            }
        }
    }
    assert!(opened > 0);
}
