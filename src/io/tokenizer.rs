//! Text to token ids and back.
//!
//! The work is done by the `tokenizers` crate on `tokenizer.json`. Added here: which tokens end an
//! answer (three files have a say), and [`TokenStream`], which decodes ids as they arrive.
//!
//! Streaming is not one `decode` per token. A character may be spread over tokens, decoders treat the
//! first token of a text specially, and a run of `<0xNN>` byte tokens is valid or invalid only as a
//! whole. The stream holds text back until later tokens cannot change it, so that its pieces always
//! concatenate to the decoding of all ids at once.

use super::files::{Files, check_is_content};
use super::json::{self, Fields};
use crate::error::{Context, Error, Result};
use std::path::Path;
use std::sync::Arc;

const TOKENIZER: &str = "tokenizer.json";

/// Turns text into token ids and back. Cloning is cheap.
#[derive(Clone)]
pub struct Tokenizer {
    pub(super) inner: Arc<tokenizers::Tokenizer>,
    eos_token_ids: Vec<u32>,
}

impl Tokenizer {
    /// Opens the tokenizer of a model folder.
    ///
    /// # Errors
    /// `tokenizer.json` is missing or malformed, or one of the JSON files that name end tokens is.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        Self::from_files(&Files::folder(folder.as_ref())?)
    }

    /// Reads the content of a `tokenizer.json`; no end tokens are known then.
    ///
    /// # Errors
    /// Malformed content.
    pub fn from_bytes(tokenizer_json: &[u8]) -> Result<Self> {
        Self::parse(tokenizer_json).context(TOKENIZER)
    }

    fn parse(tokenizer_json: &[u8]) -> Result<Self> {
        check_is_content(tokenizer_json)?;
        let fail = |e: &dyn std::fmt::Display| Error::format(e);
        // The crate panics on some text that is not JSON, and on some JSON that is inconsistent.
        serde_json::from_slice::<serde::de::IgnoredAny>(tokenizer_json)
            .map_err(|e| fail(&format_args!("not valid JSON: {e}")))?;
        let mut inner =
            guarded(|| tokenizers::Tokenizer::from_bytes(tokenizer_json)).map_err(|e| fail(&e))?;
        // Some files carry the truncation and padding of a training run.
        inner.with_truncation(None).map_err(|e| fail(&e))?;
        inner.with_padding(None);
        guarded(|| inner.encode_fast("", true)).map_err(|e| fail(&e))?; // its template's tokens exist
        Ok(Self { inner: Arc::new(inner), eos_token_ids: Vec::new() })
    }

    pub(crate) fn from_files(files: &Files) -> Result<Self> {
        let Some(bytes) = files.read(TOKENIZER)? else {
            let file = files.describe(TOKENIZER);
            return Err(if files.has("tokenizer.model") {
                Error::unsupported(format!("{file}: no such file, and tokenizer.model alone cannot be read"))
            } else {
                Error::io(format!("{file}: no such file"))
            });
        };
        let mut tokenizer = Self::parse(&bytes).with_context(|| files.describe(TOKENIZER))?;
        tokenizer.eos_token_ids = tokenizer.find_eos(files)?;
        Ok(tokenizer)
    }

    /// The union of what three files say, in this order, each id once.
    fn find_eos(&self, files: &Files) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        for name in ["generation_config.json", "config.json", "tokenizer_config.json"] {
            let Some(text) = files.read(name)? else { continue };
            let file = files.describe(name);
            let value = json::parse(&file, &text)?;
            let fields = Fields::top(&file, &value)?;
            ids.extend(fields.token_ids("eos_token_id")?);
            if let Some(token) = fields.raw("eos_token").and_then(token_text) {
                ids.extend(self.token_to_id(token));
            }
        }
        let mut seen = std::collections::HashSet::new();
        ids.retain(|id| seen.insert(*id));
        Ok(ids)
    }

    /// Token ids of a text; `add_special` adds what the model expects around a text (say, a first `<s>`).
    ///
    /// # Errors
    /// The tokenizer cannot represent the text.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let encoding = guarded(|| self.inner.encode_fast(text, add_special));
        let encoding = encoding.map_err(|e| Error::input(format!("cannot tokenize: {e}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// [`Tokenizer::encode`] where more than `most` tokens are of no use: the ids, and whether they are all. Of a long text
    /// whose beginning has more already they are that beginning's, and the rest is not read.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_within(&self, text: &str, add_special: bool, most: usize) -> Result<(Vec<u32>, bool)> {
        let mut end = most.saturating_mul(32).saturating_add(1024);
        // So much must follow that a word that is cut makes no difference.
        if text.len() / 2 > end {
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            let ids = self.encode(&text[..end], add_special)?;
            if ids.len() > most {
                return Ok((ids, false));
            }
        }
        Ok((self.encode(text, add_special)?, true))
    }

    /// The text of token ids; `skip_special` leaves out special tokens. Ids beyond the vocabulary have
    /// no text.
    ///
    /// # Errors
    /// The tokenizer's decoder failed.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        guarded(|| self.inner.decode(ids, skip_special))
            .map_err(|e| Error::input(format!("cannot decode tokens: {e}")))
    }

    /// Starts decoding ids that arrive one by one.
    pub fn stream(&self, skip_special: bool) -> TokenStream {
        TokenStream { tokenizer: self.clone(), skip_special, window: Vec::new(), boundary: 0, emitted: 0 }
    }

    /// The tokens that end an answer: those of `generation_config.json`, `config.json` and
    /// `tokenizer_config.json` together.
    pub fn eos_token_ids(&self) -> &[u32] {
        &self.eos_token_ids
    }

    /// The id of a token by its exact text, special tokens included.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The text of one token as the vocabulary spells it.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    fn is_special(&self, token: &str) -> bool {
        self.inner.get_added_vocabulary().is_special_token(token)
    }

    /// Number of tokens, added ones included. The model's embedding may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({} tokens)", self.vocab_size())
    }
}

/// Calls into `tokenizers`; a panic there, which inconsistent files can cause, becomes an error.
fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> tokenizers::Result<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(call))
        .unwrap_or_else(|_| Err("the file is inconsistent".into()))
}

/// A special token in JSON: its text, or an object with `content`.
pub(super) fn token_text(value: &serde_json::Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// What bytes that make no character are decoded to.
const REPLACEMENT: char = '\u{fffd}';
/// Ids that are kept of a run of such bytes; a character has no more than 4.
const RUN: usize = 16;

/// Decodes token ids as they arrive. The pieces of [`push`](Self::push) and the last of
/// [`finish`](Self::finish) concatenate to [`Tokenizer::decode`] of all ids.
#[derive(Clone, Debug)]
pub struct TokenStream {
    tokenizer: Tokenizer,
    skip_special: bool,
    /// The latest ids: some whose text is out already, as context, then those of the text to come.
    window: Vec<u32>,
    /// A place in `window` where nothing was held back: context may begin here.
    boundary: usize,
    /// How many bytes of the window's text are out.
    emitted: usize,
}

impl TokenStream {
    /// Adds a token; returns the text that is now certain, possibly none.
    ///
    /// # Errors
    /// The tokenizer's decoder failed.
    pub fn push(&mut self, id: u32) -> Result<String> {
        let Some(token) = self.tokenizer.id_to_token(id) else { return Ok(String::new()) };
        if self.skip_special && self.tokenizer.is_special(&token) {
            return Ok(String::new()); // decoding sees its neighbours side by side
        }
        self.window.push(id);
        if is_byte_token(&token) {
            return Ok(String::new()); // the run of bytes may go on, and is judged as a whole
        }
        let text = self.tokenizer.decode(&self.window, self.skip_special)?;
        // A replacement character at the end may be the first bytes of a real one.
        let certain = text.strip_suffix(REPLACEMENT).unwrap_or(&text);
        let piece = certain.get(self.emitted..).unwrap_or("").to_owned();
        self.emitted += piece.len();
        if certain.len() == text.len() {
            self.forget()?;
        } else if self.window.len() > 2 * RUN {
            self.shorten()?;
        }
        Ok(piece)
    }

    /// The text that was still held back. The stream is then ready for a new text.
    ///
    /// # Errors
    /// The tokenizer's decoder failed.
    pub fn finish(&mut self) -> Result<String> {
        let text = self.tokenizer.decode(&self.window, self.skip_special)?;
        let rest = text.get(self.emitted..).unwrap_or("").to_owned();
        *self = self.tokenizer.stream(self.skip_special);
        Ok(rest)
    }

    /// Bytes have made no character for long: keeps the last ids alone. All but the last character is out.
    fn shorten(&mut self) -> Result<()> {
        self.window.drain(..self.window.len() - RUN);
        let context = self.tokenizer.decode(&self.window, self.skip_special)?;
        self.emitted = context.strip_suffix(REPLACEMENT).unwrap_or(&context).len();
        self.boundary = 0;
        Ok(())
    }

    /// Everything is out: drops ids before the last boundary, unless what remains has no text of its
    /// own and so cannot tell the decoder that this is the middle of a text.
    fn forget(&mut self) -> Result<()> {
        let context = self.tokenizer.decode(&self.window[self.boundary..], self.skip_special)?;
        if !context.is_empty() {
            self.window.drain(..self.boundary);
            self.emitted = context.len();
            self.boundary = self.window.len();
        }
        Ok(())
    }
}

/// `<0x0A>` and the like: tokens that stand for one byte.
fn is_byte_token(token: &str) -> bool {
    let hex = token.strip_prefix("<0x").and_then(|t| t.strip_suffix('>'));
    hex.is_some_and(|h| h.len() == 2 && h.bytes().all(|b| b.is_ascii_hexdigit()))
}
