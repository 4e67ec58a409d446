//! [`TextStream`]: an answer as text, up to a stop string.
//!
//! A stop string may begin in one piece and end in another, so text that could be its beginning is held
//! back until more is known.

use super::generator::{FinishReason, Generator};
use crate::error::Result;
use crate::io::{TokenStream, Tokenizer};

/// Pieces of an answer's text as they become certain. Special tokens have no text; a stop string ends the
/// answer and is not part of it.
#[derive(Debug)]
pub struct TextStream<'a> {
    generator: &'a mut Generator,
    decoder: TokenStream,
    held: String,
    done: bool,
}

impl<'a> TextStream<'a> {
    pub(super) fn new(generator: &'a mut Generator, tokenizer: &Tokenizer) -> Self {
        Self { generator, decoder: tokenizer.stream(true), held: String::new(), done: false }
    }

    /// Decodes tokens until there is text to show.
    fn piece(&mut self) -> Result<Option<String>> {
        while !self.done {
            match self.generator.next() {
                Some(token) => self.held += &self.decoder.push(token?)?,
                None => {
                    self.held += &self.decoder.finish()?;
                    self.done = true;
                }
            }
            let stops = &self.generator.options().stop;
            if let Some(at) = first_stop(&self.held, stops) {
                self.held.truncate(at);
                self.generator.finish(FinishReason::Stop);
                self.done = true;
            }
            let certain = if self.done {
                self.held.len()
            } else {
                certain(&self.held, self.generator.options().stop.as_slice())
            };
            if certain > 0 {
                let rest = self.held.split_off(certain);
                return Ok(Some(std::mem::replace(&mut self.held, rest)));
            }
        }
        Ok(None)
    }
}

impl Iterator for TextStream<'_> {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Result<String>> {
        let piece = self.piece();
        self.done |= piece.is_err();
        piece.transpose()
    }
}

/// Where the earliest stop string begins.
pub(crate) fn first_stop(text: &str, stops: &[String]) -> Option<usize> {
    stops.iter().filter(|s| !s.is_empty()).filter_map(|s| text.find(s.as_str())).min()
}

/// How many bytes of `text` cannot be part of a stop string, whatever follows.
pub(crate) fn certain(text: &str, stops: &[String]) -> usize {
    let begins = |from: usize| stops.iter().any(|s| s.starts_with(&text[from..]));
    text.char_indices().map(|(i, _)| i).find(|&i| begins(i)).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_a_stop_is_held_back() {
        let stops = ["###".to_owned(), "\nUser:".to_owned()];
        assert_eq!(certain("hello", &stops), 5);
        assert_eq!(certain("hello #", &stops), 6);
        assert_eq!(certain("a ##b\nUs", &stops), 5);
        assert_eq!(certain("ähm\n", &stops), 4);
        assert_eq!(certain("x", &[]), 1);
        assert_eq!(first_stop("a ### b\nUser:", &stops), Some(2));
        assert_eq!(first_stop("a", &[String::new()]), None);
    }
}
