//! [`ToolParser`]: calls in a model's text, as it comes.
//!
//! Text that may turn out to be the mark of a call is held back. A call is announced when its name is known
//! and its arguments have begun; from then on the arguments stream. What looks like a call and is not one,
//! or calls no function that there is, is text.

use super::json::{Follower, Invalid, Signal};
use super::tools::ToolFormat;

/// What the text brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolEvent {
    /// Text that is not part of a call.
    Text(String),
    /// A call of this function begins.
    Begin {
        /// Calls are counted from 0.
        index: usize,
        /// The function.
        name: String,
    },
    /// More of the arguments of a call, as JSON text.
    Arguments {
        /// Which call.
        index: usize,
        /// What is added.
        delta: String,
    },
    /// A call is complete, and its arguments are a JSON object.
    End {
        /// Which call.
        index: usize,
    },
    /// A call that has begun is malformed or cut off: it does not count.
    Broken {
        /// Which call.
        index: usize,
        /// Its text.
        raw: String,
    },
}

/// A call under way.
#[derive(Clone, Debug)]
struct Call {
    follower: Follower,
    /// What introduced it, then the object.
    raw: String,
    /// Where the part that is being read begins: a key or a value.
    part: usize,
    key: Option<String>,
    name: Option<String>,
    /// Where the arguments begin and end.
    arguments: Option<(usize, Option<usize>)>,
    /// Bytes of `raw` that are out as arguments, once it is announced.
    announced: Option<usize>,
}

#[derive(Clone, Debug)]
enum State {
    /// At the start of an answer or after a call: a bare object is a call here.
    Start,
    Text,
    /// After the mark of a call, with what introduced it: its object must come.
    Mark(String),
    Call(Box<Call>),
    /// After the object: its closing mark may come.
    Close,
}

/// Finds calls in text that comes in pieces.
#[derive(Clone, Debug)]
pub struct ToolParser {
    format: ToolFormat,
    names: Vec<String>,
    state: State,
    /// Bytes of a character that is not complete.
    bytes: Vec<u8>,
    held: String,
    calls: usize,
    /// Text has come out since the last call.
    text: bool,
}

impl ToolParser {
    /// A parser of calls of functions with these names.
    pub fn new(format: ToolFormat, names: impl IntoIterator<Item = String>) -> Self {
        Self {
            format,
            names: names.into_iter().collect(),
            state: State::Start,
            bytes: Vec::new(),
            held: String::new(),
            calls: 0,
            text: false,
        }
    }

    /// Calls announced so far, broken ones included.
    pub fn calls(&self) -> usize {
        self.calls
    }

    fn mark(&self) -> &'static str {
        self.format.mark()
    }

    /// Adds a piece of UTF-8, which may end within a character; what is certain now.
    pub fn push(&mut self, piece: &[u8]) -> Vec<ToolEvent> {
        self.bytes.extend_from_slice(piece);
        let bytes = std::mem::take(&mut self.bytes);
        let complete = complete(&bytes);
        self.bytes = bytes[complete..].to_vec();
        self.held += &String::from_utf8_lossy(&bytes[..complete]);
        self.advance(false)
    }

    /// The rest, at the end of the text.
    pub fn finish(&mut self) -> Vec<ToolEvent> {
        let bytes = std::mem::take(&mut self.bytes);
        self.held += &String::from_utf8_lossy(&bytes);
        self.advance(true)
    }

    fn advance(&mut self, end: bool) -> Vec<ToolEvent> {
        let mut events = Vec::new();
        while match std::mem::replace(&mut self.state, State::Text) {
            State::Start => self.start(end),
            State::Text => self.plain(end, &mut events),
            State::Mark(raw) => self.object(raw, end, &mut events),
            State::Call(call) => self.call(*call, end, &mut events),
            State::Close => self.close(end),
        } {}
        events
    }

    /// Whether a step changed something; the state is `Text` before each.
    fn start(&mut self, end: bool) -> bool {
        let spaces = self.held.len() - self.held.trim_start_matches(|c: char| self.skips(c)).len();
        if self.format == ToolFormat::Llama3 && self.held[spaces..].starts_with('{') {
            let raw = self.held.drain(..spaces).collect();
            self.state = State::Mark(raw);
            return true;
        }
        if spaces == self.held.len() && !end {
            self.state = State::Start;
            return false;
        }
        true
    }

    /// What may stand between calls.
    fn skips(&self, c: char) -> bool {
        c.is_whitespace() || (self.format == ToolFormat::Llama3 && self.calls > 0 && (c == ';' || c == ','))
    }

    fn plain(&mut self, end: bool, events: &mut Vec<ToolEvent>) -> bool {
        let mark = self.mark();
        if let Some(at) = self.held.find(mark) {
            let rest = self.held.split_off(at + mark.len());
            let text = std::mem::replace(&mut self.held, rest);
            self.emit(text[..at].trim_end().to_owned(), events);
            // White space before a call is not part of the text, unless the call is none.
            self.state = State::Mark(text[text[..at].trim_end().len()..].to_owned());
            return true;
        }
        if self.calls > 0 && !self.text {
            self.held.drain(..self.held.len() - self.held.trim_start().len());
        }
        let certain = match end {
            true if self.calls > 0 => self.held.trim_end().len(),
            true => self.held.len(),
            false => self.held[..hold(&self.held, mark)].trim_end().len(),
        };
        let rest = self.held.split_off(certain);
        let text = std::mem::replace(&mut self.held, rest);
        self.emit(text, events);
        if end {
            self.held.clear();
        }
        false
    }

    fn emit(&mut self, text: String, events: &mut Vec<ToolEvent>) {
        if !text.is_empty() {
            self.text = true;
            match events.last_mut() {
                Some(ToolEvent::Text(before)) => *before += &text,
                _ => events.push(ToolEvent::Text(text)),
            }
        }
    }

    fn object(&mut self, mut raw: String, end: bool, events: &mut Vec<ToolEvent>) -> bool {
        let spaces = self.held.len() - self.held.trim_start().len();
        if self.held[spaces..].starts_with('{') {
            raw.extend(self.held.drain(..spaces));
            self.state = State::Call(Box::new(Call::new(raw)));
            return true;
        }
        if spaces == self.held.len() && !end {
            self.state = State::Mark(raw);
            return false;
        }
        self.give_up(&raw, events);
        true
    }

    /// What was taken for a call is text; what follows its mark is looked at again.
    fn give_up(&mut self, raw: &str, events: &mut Vec<ToolEvent>) {
        let mark = self.mark();
        let after = raw.find(mark).map_or(0, |at| at + mark.len());
        self.held.insert_str(0, &raw[after..]);
        self.emit(raw[..after].to_owned(), events);
    }

    fn call(&mut self, mut call: Call, end: bool, events: &mut Vec<ToolEvent>) -> bool {
        let held = std::mem::take(&mut self.held);
        let (mut read, mut outcome) = (held.len(), Ok(false));
        for (at, c) in held.char_indices() {
            outcome = call.step(c, &self.names);
            if outcome != Ok(false) {
                read = if outcome.is_ok() { at + c.len_utf8() } else { at };
                break;
            }
        }
        self.held = held[read..].to_owned();
        if let (None, Some(name)) = (call.announced, call.ready(outcome == Ok(true))) {
            call.announced = Some(call.arguments.map_or(0, |(from, _)| from));
            events.push(ToolEvent::Begin { index: self.calls, name });
            self.calls += 1;
        }
        let index = self.calls.saturating_sub(1);
        if let Some(delta) = call.delta() {
            events.push(ToolEvent::Arguments { index, delta });
        }
        match outcome {
            Ok(true) => {
                events.push(ToolEvent::End { index });
                self.state = match self.format {
                    ToolFormat::Hermes => State::Close,
                    ToolFormat::Llama3 => State::Start,
                };
                true
            }
            Ok(false) if !end => {
                self.state = State::Call(Box::new(call));
                false
            }
            _ if call.announced.is_some() => {
                events.push(ToolEvent::Broken { index, raw: call.raw });
                true
            }
            _ => {
                self.give_up(&call.raw, events);
                true
            }
        }
    }

    fn close(&mut self, end: bool) -> bool {
        const CLOSE: &str = "</tool_call>";
        let rest = self.held.trim_start();
        if let Some(rest) = rest.strip_prefix(CLOSE) {
            self.held = rest.to_owned();
        } else if CLOSE.starts_with(rest) && !end {
            self.state = State::Close;
            return false;
        }
        true
    }
}

impl Call {
    fn new(raw: String) -> Self {
        Self {
            follower: Follower::new(),
            part: raw.len(),
            raw,
            key: None,
            name: None,
            arguments: None,
            announced: None,
        }
    }

    /// Reads a character; whether the object is complete.
    fn step(&mut self, c: char, names: &[String]) -> Result<bool, Invalid> {
        let at = self.raw.len();
        let signal = self.follower.step(c)?;
        let end = at + c.len_utf8();
        let text = |from: usize| format!("{}{c}", &self.raw[from..]);
        match signal {
            Signal::None => {}
            Signal::Begins => {
                self.part = at;
                if matches!(self.key.as_deref(), Some("arguments" | "parameters")) {
                    if c != '{' || self.arguments.is_some() {
                        return Err(Invalid);
                    }
                    self.arguments = Some((at, None));
                }
            }
            Signal::KeyEnds => {
                let key: String = serde_json::from_str(&text(self.part)).map_err(|_| Invalid)?;
                if !["name", "arguments", "parameters", "type", "id"].contains(&key.as_str()) {
                    return Err(Invalid);
                }
                self.key = Some(key);
            }
            Signal::ValueEnds => match self.key.take().as_deref() {
                Some("name") => {
                    let name: String = serde_json::from_str(&text(self.part)).map_err(|_| Invalid)?;
                    if self.name.is_some() || !names.contains(&name) {
                        return Err(Invalid);
                    }
                    self.name = Some(name);
                }
                Some("arguments" | "parameters") => self.arguments = Some((self.part, Some(end))),
                _ => {}
            },
            Signal::NumberEnded { .. } => {
                if self.key.take().as_deref() == Some("name") {
                    return Err(Invalid);
                }
            }
            Signal::Done => {}
        }
        self.raw.push(c);
        let done = matches!(signal, Signal::Done | Signal::NumberEnded { done: true });
        if done && self.name.is_none() { Err(Invalid) } else { Ok(done) }
    }

    /// The name, once the call can be announced; `done` if nothing more comes.
    fn ready(&self, done: bool) -> Option<String> {
        if self.arguments.is_some() || done { self.name.clone() } else { None }
    }

    /// Arguments that are not out yet, of a call that is announced.
    fn delta(&mut self) -> Option<String> {
        let from = self.announced?;
        let Some((_, end)) = self.arguments else {
            return Some("{}".to_owned());
        };
        let to = end.unwrap_or(self.raw.len());
        self.announced = Some(to);
        (to > from).then(|| self.raw[from..to].to_owned())
    }
}

/// How many of `bytes` do not end within a character.
fn complete(bytes: &[u8]) -> usize {
    let n = bytes.len();
    for back in 1..=n.min(3) {
        let needed = match bytes[n - back] {
            0x80..=0xbf => continue,
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => 1,
        };
        return if needed > back { n - back } else { n };
    }
    n
}

/// How many bytes of `text` cannot be the beginning of `mark`, whatever follows.
pub(super) fn hold(text: &str, mark: &str) -> usize {
    let first = text.len().saturating_sub(mark.len());
    (first..text.len())
        .find(|&at| text.is_char_boundary(at) && mark.starts_with(&text[at..]))
        .unwrap_or(text.len())
}
