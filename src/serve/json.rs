//! JSON, one character at a time: is it still valid, and where do the parts of the outermost object begin.

/// Objects and lists within one another.
const MOST_DEPTH: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A value must come; or the end of the list that has just begun.
    Value {
        or_end: bool,
    },
    /// A key must come; or the end of the object that has just begun.
    Key {
        or_end: bool,
    },
    Colon,
    /// A comma or the end.
    After,
    String {
        key: bool,
    },
    Escape {
        key: bool,
    },
    Hex {
        key: bool,
        left: u8,
    },
    Number,
    Word {
        rest: &'static str,
    },
    Done,
}

/// What a character did, in the outermost object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// Nothing of note.
    None,
    /// A key or a value begins with it.
    Begins,
    /// A key has ended with it.
    KeyEnds,
    /// A value has ended with it.
    ValueEnds,
    /// A number has ended before it, and the object goes on or ends with it.
    NumberEnded { done: bool },
    /// The object has ended with it.
    Done,
}

/// Not JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Invalid;

/// Follows one object.
#[derive(Clone, Debug)]
pub(super) struct Follower {
    stack: Vec<u8>,
    state: State,
    number: String,
}

impl Follower {
    pub(super) fn new() -> Self {
        Self { stack: Vec::new(), state: State::Value { or_end: false }, number: String::new() }
    }

    /// Reads a character; the first must be `{`.
    pub(super) fn step(&mut self, c: char) -> Result<Signal, Invalid> {
        let outer = self.stack.len() == 1;
        let begins = if outer { Signal::Begins } else { Signal::None };
        let space = matches!(c, ' ' | '\n' | '\r' | '\t');
        match self.state {
            State::String { key } => self.string(c, key),
            State::Escape { key } => {
                self.state = match c {
                    'u' => State::Hex { key, left: 4 },
                    '"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't' => State::String { key },
                    _ => return Err(Invalid),
                };
                Ok(Signal::None)
            }
            State::Hex { key, left } if c.is_ascii_hexdigit() => {
                self.state =
                    if left == 1 { State::String { key } } else { State::Hex { key, left: left - 1 } };
                Ok(Signal::None)
            }
            State::Word { rest } => {
                let mut left = rest.chars();
                if left.next() != Some(c) {
                    return Err(Invalid);
                }
                let rest = left.as_str();
                if rest.is_empty() {
                    return Ok(self.value_ends());
                }
                self.state = State::Word { rest };
                Ok(Signal::None)
            }
            State::Number
                if matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E') && self.number.len() < 512 =>
            {
                self.number.push(c);
                Ok(Signal::None)
            }
            State::Number => {
                if !is_number(&self.number) {
                    return Err(Invalid);
                }
                self.value_ends();
                let signal = if space { Signal::None } else { self.step(c)? };
                Ok(match signal {
                    Signal::Done => Signal::NumberEnded { done: true },
                    _ if outer => Signal::NumberEnded { done: false },
                    other => other,
                })
            }
            _ if space => Ok(Signal::None),
            State::Value { or_end } => match c {
                '{' => self.open(b'{', State::Key { or_end: true }, begins),
                '[' if !self.stack.is_empty() => self.open(b'[', State::Value { or_end: true }, begins),
                ']' if or_end => self.close(b'['),
                _ if self.stack.is_empty() => Err(Invalid),
                '"' => self.go(State::String { key: false }, begins),
                't' => self.go(State::Word { rest: "rue" }, begins),
                'f' => self.go(State::Word { rest: "alse" }, begins),
                'n' => self.go(State::Word { rest: "ull" }, begins),
                '-' | '0'..='9' => {
                    self.number.clear();
                    self.number.push(c);
                    self.go(State::Number, begins)
                }
                _ => Err(Invalid),
            },
            State::Key { or_end } => match c {
                '"' => self.go(State::String { key: true }, begins),
                '}' if or_end => self.close(b'{'),
                _ => Err(Invalid),
            },
            State::Colon if c == ':' => self.go(State::Value { or_end: false }, Signal::None),
            State::After => match (c, self.stack.last()) {
                (',', Some(b'{')) => self.go(State::Key { or_end: false }, Signal::None),
                (',', Some(b'[')) => self.go(State::Value { or_end: false }, Signal::None),
                ('}', _) => self.close(b'{'),
                (']', _) => self.close(b'['),
                _ => Err(Invalid),
            },
            State::Hex { .. } | State::Colon | State::Done => Err(Invalid),
        }
    }

    fn go(&mut self, state: State, signal: Signal) -> Result<Signal, Invalid> {
        self.state = state;
        Ok(signal)
    }

    fn string(&mut self, c: char, key: bool) -> Result<Signal, Invalid> {
        match c {
            '"' if key => {
                self.state = State::Colon;
                Ok(if self.stack.len() == 1 { Signal::KeyEnds } else { Signal::None })
            }
            '"' => Ok(self.value_ends()),
            '\\' => self.go(State::Escape { key }, Signal::None),
            '\0'..='\x1f' => Err(Invalid),
            _ => Ok(Signal::None),
        }
    }

    fn open(&mut self, kind: u8, state: State, signal: Signal) -> Result<Signal, Invalid> {
        if self.stack.len() == MOST_DEPTH {
            return Err(Invalid);
        }
        self.stack.push(kind);
        self.go(state, signal)
    }

    fn close(&mut self, kind: u8) -> Result<Signal, Invalid> {
        if self.stack.pop() != Some(kind) {
            return Err(Invalid);
        }
        Ok(self.value_ends())
    }

    fn value_ends(&mut self) -> Signal {
        self.state = if self.stack.is_empty() { State::Done } else { State::After };
        match self.stack.len() {
            0 => Signal::Done,
            1 => Signal::ValueEnds,
            _ => Signal::None,
        }
    }
}

/// A number as JSON has it, of any size.
fn is_number(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let text = text.strip_prefix('-').unwrap_or(text);
    let (text, exponent) = text.split_once(['e', 'E']).map_or((text, None), |(a, b)| (a, Some(b)));
    let (whole, fraction) = text.split_once('.').map_or((text, None), |(a, b)| (a, Some(b)));
    let exponent = exponent.map(|e| e.strip_prefix(['+', '-']).unwrap_or(e));
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_object(text: &str) -> bool {
        let mut follower = Follower::new();
        let mut done = false;
        for c in text.chars() {
            if done {
                return false;
            }
            match follower.step(c) {
                Ok(Signal::Done | Signal::NumberEnded { done: true }) => done = true,
                Ok(_) => {}
                Err(Invalid) => return false,
            }
        }
        done
    }

    #[test]
    fn it_agrees_with_serde() {
        let texts = [
            "{}",
            "{ }",
            "{\"a\":1}",
            "{\"a\":1 }",
            "{\"a\":-0.5e+3,\"b\":[]}",
            "{\"a\":[1,2,{\"b\":null}]}",
            "{\"a\":\"\\u00e9\\\"}\"}",
            "{\"a\":true,\"b\":false}",
            "{\"a\":01}",
            "{\"a\":1.}",
            "{\"a\":-}",
            "{\"a\":.5}",
            "{\"a\":1e}",
            "{\"a\" 1}",
            "{\"a\":1,}",
            "{,}",
            "{\"a\":[1,]}",
            "{\"a\":[}",
            "{\"a\":]}",
            "{\"a\":\"\\x\"}",
            "{\"a\":tru}",
            "{\"a\":nulll}",
            "{a:1}",
            "{\"a\":1]}",
            "{\"a\":\"\n\"}",
            "[1]",
            "1",
            "{\"a\":1.e5}",
            "{\"a\":--1}",
            "{\"a\":1+1}",
            "{\"a\":-01}",
            "{\"a\":0}",
            "{\"a\":1}}",
            "{\"\":{\"\":{}}}",
        ];
        for text in texts {
            let object = serde_json::from_str::<serde_json::Value>(text).is_ok_and(|v| v.is_object());
            assert_eq!(is_object(text), object, "{text}");
        }
    }
}
