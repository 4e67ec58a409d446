//! The bytes that each token of a vocabulary adds to a text.
//!
//! A vocabulary spells tokens in its own alphabet: byte-level BPE gives every byte a printable character,
//! sentencepiece writes `▁` for a space and `<0x0A>` for a byte. The decoder in `tokenizer.json` says which;
//! its steps are applied here to single tokens. What a decoder does to a text as a whole (a first space that is
//! stripped) is left out.

use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use serde_json::Value;

/// What a token stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenBytes {
    /// Text, perhaps a part of a character.
    Text(Vec<u8>),
    /// A special token, such as `<|im_end|>`: its name. It is not part of any text.
    Special(String),
    /// No token has this id.
    None,
}

/// A step of a decoder, as far as it concerns a single token.
enum Step {
    ByteLevel,
    Replace(String, String),
    ByteFallback,
}

impl Tokenizer {
    /// The bytes of every token, by id, up to the greatest id that there is. End tokens count as special.
    ///
    /// # Errors
    /// The tokenizer's decoder is of a kind that does not work token by token.
    pub fn token_bytes(&self) -> Result<Vec<TokenBytes>> {
        let decoder = self.inner.get_decoder();
        let decoder =
            serde_json::to_value(decoder).map_err(|e| Error::format(format!("tokenizer.json: {e}")))?;
        let mut steps = Vec::new();
        collect(&decoder, &mut steps)?;
        let vocabulary = self.inner.get_vocab(true);
        let added = self.inner.get_added_vocabulary();
        let most = vocabulary.values().max().map_or(0, |&id| id as usize + 1);
        if most > vocabulary.len().saturating_mul(4) + 65536 {
            return Err(Error::format(format!(
                "tokenizer.json: an id of {most} in {} tokens",
                vocabulary.len()
            )));
        }
        let mut all = vec![TokenBytes::None; most];
        for (name, id) in vocabulary {
            let special = added.is_special_token(&name) || self.eos_token_ids().contains(&id);
            all[id as usize] =
                if special { TokenBytes::Special(name) } else { TokenBytes::Text(bytes(&name, &steps)) };
        }
        Ok(all)
    }
}

fn collect(decoder: &Value, steps: &mut Vec<Step>) -> Result<()> {
    let text = |name: &str| decoder.get(name).and_then(Value::as_str);
    let refuse = |what: &str| Err(Error::unsupported(format!("tokenizer.json: bytes of tokens with {what}")));
    match text("type") {
        Some("ByteLevel") => steps.push(Step::ByteLevel),
        Some("ByteFallback") => steps.push(Step::ByteFallback),
        Some("Fuse" | "Strip") => {} // about the text as a whole
        Some("Metaspace") => {
            let space = text("replacement").unwrap_or("▁").to_owned();
            steps.push(Step::Replace(space, " ".to_owned()));
        }
        Some("Replace") => {
            let pattern = decoder.get("pattern").and_then(|p| p.get("String")).and_then(Value::as_str);
            let (Some(pattern), Some(content)) = (pattern, text("content")) else {
                return refuse("a decoder that replaces by a regular expression");
            };
            steps.push(Step::Replace(pattern.to_owned(), content.to_owned()));
        }
        Some("Sequence") => {
            for decoder in decoder.get("decoders").and_then(Value::as_array).into_iter().flatten() {
                collect(decoder, steps)?;
            }
        }
        Some(other) => return refuse(&format!("a decoder of type {other}")),
        None => return refuse("no decoder"),
    }
    Ok(())
}

fn bytes(name: &str, steps: &[Step]) -> Vec<u8> {
    let mut text = name.to_owned();
    for step in steps {
        match step {
            Step::Replace(from, to) => text = text.replace(from.as_str(), to),
            Step::ByteFallback => {
                if let Some(byte) = byte_token(&text) {
                    return vec![byte];
                }
            }
            Step::ByteLevel => {
                // A token that is not spelled in this alphabet stands for itself.
                let bytes: Option<Vec<u8>> = text.chars().map(byte_of).collect();
                return bytes.unwrap_or_else(|| text.into_bytes());
            }
        }
    }
    text.into_bytes()
}

/// The byte of `<0x0A>` and the like.
fn byte_token(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let digits = hex.len() == 2 && hex.bytes().all(|b| b.is_ascii_hexdigit());
    digits.then(|| u8::from_str_radix(hex, 16).ok()).flatten()
}

/// GPT-2's alphabet of bytes: printable ones are themselves, the others follow from U+0100 on, in order.
fn byte_of(c: char) -> Option<u8> {
    match u32::from(c) {
        n @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(n as u8),
        n @ 0x100..=0x120 => Some((n - 0x100) as u8), // 00 to 20
        n @ 0x121..=0x142 => Some((n - 0x121 + 0x7f) as u8), // 7f to a0
        0x143 => Some(0xad),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn every_byte_has_one_character() {
        let mut found: Vec<u8> = (0..0x200).filter_map(char::from_u32).filter_map(byte_of).collect();
        found.sort_unstable();
        assert_eq!(found, (0..=255).collect::<Vec<u8>>());
    }

    #[test]
    fn tokens_add_up_to_the_text() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let texts = [
            "Hello, wörld!\n",
            "{\"a\": [1, 2.5e3, \"\\u00e9 日本 🦀\"]}",
            "  tabs\tand   spaces ",
            "\u{ad}\u{7f}",
        ];
        for folder in [
            "examples/storyteller",
            "tests/golden/tokenizer_gpt2",
            "tests/golden/tokenizer_qwen",
            "tests/golden/tokenizer_llama3",
            "tests/golden/tokenizer_mistral",
            "tests/golden/tokenizer_gemma",
        ] {
            let tokenizer = Tokenizer::open(root.join(folder)).unwrap();
            let all = tokenizer.token_bytes().unwrap();
            for text in texts {
                let ids = tokenizer.encode(text, false).unwrap();
                let mut got = Vec::new();
                for &id in &ids {
                    let TokenBytes::Text(bytes) = &all[id as usize] else {
                        panic!("{folder}: {id} in {text}")
                    };
                    got.extend_from_slice(bytes);
                }
                let got = String::from_utf8(got).unwrap();
                // Some put a space first, and strip it in decoding.
                assert!(got == text || got.strip_prefix(' ') == Some(text), "{folder}: {got:?} for {text:?}");
                assert_eq!(got.trim_start(), tokenizer.decode(&ids, false).unwrap().trim_start(), "{folder}");
            }
            for &id in tokenizer.eos_token_ids() {
                assert!(matches!(all[id as usize], TokenBytes::Special(_)));
            }
        }
    }
}
