//! Reasoning apart from the answer: `<think>...</think>` before it, as many models write.

use super::tool_stream::hold;
use crate::io::{Chat, ChatTemplate};
use serde_json::{Value, json};

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// A piece of what a model wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// `reasoning_content`
    Reasoning(String),
    /// `content`
    Content(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing but white space so far.
    Start,
    /// In the reasoning; whether any of it is out.
    Reasoning(bool),
    /// After the reasoning, before the answer.
    Gap,
    Answer,
}

/// Splits a model's text as it comes. Line breaks around the reasoning belong to neither part.
#[derive(Clone, Debug)]
pub struct ReasoningSplitter {
    state: State,
    held: String,
}

impl ReasoningSplitter {
    /// For what follows `prompt`: templates differ in whether they begin the reasoning themselves.
    pub fn after(prompt: &str) -> Self {
        let state = if is_open(prompt) { State::Reasoning(false) } else { State::Start };
        Self { state, held: String::new() }
    }

    /// Adds text; what is certain now.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        self.held.push_str(text);
        let mut pieces = Vec::new();
        while self.advance(&mut pieces) {}
        pieces
    }

    /// The rest, at the end of the text.
    pub fn finish(&mut self) -> Vec<Piece> {
        let rest = std::mem::take(&mut self.held);
        let mut pieces = Vec::new();
        match self.state {
            State::Start | State::Answer => content(rest, &mut pieces),
            State::Reasoning(_) => reasoning(rest.trim_end().to_owned(), &mut pieces),
            State::Gap => {}
        }
        pieces
    }

    /// Whether the text is still within the reasoning.
    pub fn is_reasoning(&self) -> bool {
        matches!(self.state, State::Reasoning(_))
    }

    /// One step; whether another may follow.
    fn advance(&mut self, pieces: &mut Vec<Piece>) -> bool {
        match self.state {
            State::Start => {
                let text = self.held.trim_start();
                if let Some(rest) = text.strip_prefix(OPEN) {
                    self.held = rest.to_owned();
                    self.state = State::Reasoning(false);
                } else if OPEN.starts_with(text) {
                    return false;
                } else {
                    self.state = State::Answer;
                }
                true
            }
            State::Reasoning(begun) => {
                if !begun {
                    self.held.drain(..self.held.len() - self.held.trim_start().len());
                }
                if let Some(at) = self.held.find(CLOSE) {
                    let rest = self.held.split_off(at + CLOSE.len());
                    let text = std::mem::replace(&mut self.held, rest);
                    reasoning(text[..at].trim_end().to_owned(), pieces);
                    self.state = State::Gap;
                    return true;
                }
                let certain = self.held[..hold(&self.held, CLOSE)].trim_end().len();
                let rest = self.held.split_off(certain);
                let text = std::mem::replace(&mut self.held, rest);
                self.state = State::Reasoning(begun || !text.is_empty());
                reasoning(text, pieces);
                false
            }
            State::Gap => {
                self.held.drain(..self.held.len() - self.held.trim_start().len());
                if !self.held.is_empty() {
                    self.state = State::Answer;
                }
                !self.held.is_empty()
            }
            State::Answer => {
                content(std::mem::take(&mut self.held), pieces);
                false
            }
        }
    }
}

fn reasoning(text: String, pieces: &mut Vec<Piece>) {
    if !text.is_empty() {
        pieces.push(Piece::Reasoning(text));
    }
}

fn content(text: String, pieces: &mut Vec<Piece>) {
    if !text.is_empty() {
        pieces.push(Piece::Content(text));
    }
}

/// Whether a prompt has begun the reasoning of the answer.
pub fn is_open(prompt: &str) -> bool {
    prompt.trim_end().ends_with(OPEN)
}

/// Whether a prompt has ended the reasoning of the answer: there is none.
pub fn is_closed(prompt: &str) -> bool {
    prompt.trim_end().ends_with(CLOSE)
}

/// Whether a chat template knows reasoning: it opens it, or writes it before an earlier answer.
pub fn has_reasoning(template: &ChatTemplate) -> bool {
    let messages = [
        json!({"role": "user", "content": "question"}),
        json!({"role": "assistant", "content": "answer", "reasoning_content": "thought"}),
    ];
    let chat = |messages, generate| Chat { messages, add_generation_prompt: generate, ..Chat::default() };
    let prompt = template.render(&chat(&messages[..1], true)).unwrap_or_default();
    let past = template.render(&chat(&messages, false)).unwrap_or_default();
    is_open(&prompt) || past.find(OPEN).is_some_and(|at| past[at..].contains("thought"))
}

/// The variable that makes a template's model think as much as a request wants, and its value; `None` if the
/// template has none. Some only know thinking and not thinking.
pub fn effort(template: &ChatTemplate, wanted: &str) -> Option<(&'static str, Value)> {
    const EFFORT: &str = "reasoning_effort";
    if template.reads(EFFORT) {
        return Some((EFFORT, wanted.into()));
    }
    let switch = ["enable_thinking", "thinking"].into_iter().find(|name| template.reads(name))?;
    Some((switch, (wanted != "none").into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both parts, the text cut into pieces of `n` characters.
    fn split(prompt: &str, text: &str, n: usize) -> (String, String) {
        let mut splitter = ReasoningSplitter::after(prompt);
        let chars: Vec<char> = text.chars().collect();
        let mut pieces: Vec<Piece> =
            chars.chunks(n).flat_map(|c| splitter.push(&c.iter().collect::<String>())).collect();
        pieces.extend(splitter.finish());
        let (mut reasoning, mut content) = (String::new(), String::new());
        for piece in pieces {
            match piece {
                Piece::Reasoning(text) => reasoning += &text,
                Piece::Content(text) => content += &text,
            }
        }
        (reasoning, content)
    }

    #[test]
    fn a_text_is_split_however_it_is_cut() {
        let cases = [
            ("", "<think>\nhm </thin x\n\nü</think>\n\nYes\n", "hm </thin x\n\nü", "Yes\n"),
            ("<think>\n", "hm</think>Yes", "hm", "Yes"),
            ("<think>\n\n</think>\n\n", "Yes", "", "Yes"),
            ("", " Yes <think>a</think>", "", " Yes <think>a</think>"),
            ("", "<thin", "", "<thin"),
            ("", "<think>cut off ", "cut off", ""),
            ("", "<think></think>Yes", "", "Yes"),
            ("", "<think>a</think> b <think>c</think>", "a", "b <think>c</think>"),
            ("", "", "", ""),
        ];
        for (prompt, text, reasoning, content) in cases {
            for n in 1..=text.len().max(1) {
                assert_eq!(
                    split(prompt, text, n),
                    (reasoning.to_owned(), content.to_owned()),
                    "{text:?} by {n}"
                );
            }
        }
    }

    #[test]
    fn reasoning_is_out_before_it_ends() {
        let mut splitter = ReasoningSplitter::after("");
        assert_eq!(splitter.push("<think>one two"), [Piece::Reasoning("one two".to_owned())]);
        assert!(splitter.is_reasoning());
        assert_eq!(splitter.push(" three\n"), [Piece::Reasoning(" three".to_owned())]);
    }

    #[test]
    fn templates_tell() {
        let qwen = "{% for m in messages %}{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>\
                    {% endif %}{{ m.content }}{% endfor %}";
        assert!(has_reasoning(&ChatTemplate::new(qwen).unwrap()));
        let r1 = "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}<think>\n{% endif %}";
        assert!(has_reasoning(&ChatTemplate::new(r1).unwrap()));
        assert!(!has_reasoning(&ChatTemplate::new("{{ messages[0].content }}").unwrap()));
    }
}
