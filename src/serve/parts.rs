//! [`Reading`]: what a model wrote becomes what a client gets: reasoning, content, calls of tools.

use super::reasoning::{Piece, ReasoningSplitter};
use super::tool_stream::{ToolEvent, ToolParser};
use super::tools::ToolCall;

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Reasoning(String),
    Content(String),
    /// A call begins; calls are counted from 0.
    Call {
        index: usize,
        name: String,
    },
    /// More of the arguments of a call.
    Arguments {
        index: usize,
        delta: String,
    },
}

/// How an answer is read.
#[derive(Clone, Debug, Default)]
pub(super) struct Reading {
    splitter: Option<ReasoningSplitter>,
    parser: Option<ToolParser>,
    /// Calls are what the request asked for by name: they are no reason to end.
    named: bool,
    /// Tokens of the reasoning so far.
    reasoned: usize,
    /// Calls that are complete.
    calls: usize,
}

impl Reading {
    pub(super) fn new(splitter: Option<ReasoningSplitter>, parser: Option<ToolParser>, named: bool) -> Self {
        Self { splitter, parser, named, ..Self::default() }
    }

    /// More text, with which the answer has `tokens` tokens.
    pub(super) fn push(&mut self, text: &str, tokens: usize) -> Vec<Part> {
        let mut parts = Vec::new();
        match &mut self.splitter {
            None => self.say(text, &mut parts),
            Some(splitter) => {
                let pieces = splitter.push(text);
                if splitter.is_reasoning() {
                    self.reasoned = tokens;
                }
                self.split(pieces, &mut parts);
            }
        }
        parts
    }

    /// The rest.
    pub(super) fn finish(&mut self) -> Vec<Part> {
        let mut parts = Vec::new();
        if let Some(splitter) = &mut self.splitter {
            let pieces = splitter.finish();
            self.split(pieces, &mut parts);
        }
        if let Some(parser) = &mut self.parser {
            let events = parser.finish();
            self.call(events, &mut parts);
        }
        parts
    }

    fn split(&mut self, pieces: Vec<Piece>, parts: &mut Vec<Part>) {
        for piece in pieces {
            match piece {
                Piece::Reasoning(text) => parts.push(Part::Reasoning(text)),
                Piece::Content(text) => self.say(&text, parts),
            }
        }
    }

    fn say(&mut self, text: &str, parts: &mut Vec<Part>) {
        match &mut self.parser {
            Some(parser) => {
                let events = parser.push(text.as_bytes());
                self.call(events, parts);
            }
            None if text.is_empty() => {}
            None => parts.push(Part::Content(text.to_owned())),
        }
    }

    fn call(&mut self, events: Vec<ToolEvent>, parts: &mut Vec<Part>) {
        for event in events {
            match event {
                ToolEvent::Text(text) => parts.push(Part::Content(text)),
                ToolEvent::Begin { index, name } => parts.push(Part::Call { index, name }),
                ToolEvent::Arguments { index, delta } => parts.push(Part::Arguments { index, delta }),
                ToolEvent::End { .. } => self.calls += 1,
                // It was announced and cannot be taken back: the client has what there is of it.
                ToolEvent::Broken { .. } => {}
            }
        }
    }

    /// Why the answer ended, whose text ended for this reason.
    pub(super) fn reason(&self, text: &'static str) -> &'static str {
        if text == "stop" && self.calls > 0 && !self.named { "tool_calls" } else { text }
    }

    /// Tokens of the reasoning.
    pub(super) fn reasoned(&self) -> usize {
        self.reasoned
    }
}

/// A whole answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Said {
    pub(super) reasoning: String,
    pub(super) content: String,
    pub(super) calls: Vec<ToolCall>,
}

impl Said {
    pub(super) fn add(&mut self, parts: Vec<Part>) {
        for part in parts {
            match part {
                Part::Reasoning(text) => self.reasoning += &text,
                Part::Content(text) => self.content += &text,
                Part::Call { name, .. } => self.calls.push(ToolCall { name, arguments: String::new() }),
                Part::Arguments { index, delta } => {
                    if let Some(call) = self.calls.get_mut(index) {
                        call.arguments += &delta;
                    }
                }
            }
        }
    }
}
