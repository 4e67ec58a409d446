//! Numbers in JSON that stay within what programs read.
//!
//! JSON's grammar lets a number go on forever, and a model that has lost its way does. Where an answer could
//! close a number that has 32 characters or 2 digits of exponent, it may not lengthen it.

/// Where an answer is within JSON, as far as numbers are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// What comes before the JSON: the last bytes, to see reasoning begin and end.
    Before {
        open: bool,
        last: [u8; 8],
    },
    Between,
    String,
    Escape,
    Number {
        length: u32,
        exponent: Option<u32>,
    },
}

const MOST_LENGTH: u32 = 32;
const MOST_EXPONENT: u32 = 2;

/// Follows the numbers of an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers(Place);

impl Numbers {
    /// `reasoning` is whether reasoning comes first: `Some(true)` if it has begun already.
    pub(super) fn new(reasoning: Option<bool>) -> Self {
        Self(match reasoning {
            None => Place::Between,
            Some(open) => Place::Before { open, last: [0; 8] },
        })
    }

    /// Whether a number has begun that could grow too long with one token.
    pub(super) fn is_long(&self) -> bool {
        matches!(self.0, Place::Number { length, exponent } if exponent.is_some() || length > MOST_LENGTH / 2)
    }

    /// Whether the token makes a number longer than it should be.
    pub(super) fn exceeds(&self, token: &[u8]) -> bool {
        let mut next = *self;
        token.iter().any(|&byte| {
            next.step(byte);
            let is = |length, exponent: Option<u32>| length > MOST_LENGTH || exponent > Some(MOST_EXPONENT);
            matches!(next.0, Place::Number { length, exponent } if is(length, exponent))
        })
    }

    pub(super) fn read(&mut self, token: &[u8]) {
        token.iter().for_each(|&byte| self.step(byte));
    }

    fn step(&mut self, byte: u8) {
        self.0 = match (self.0, byte) {
            (Place::Before { open, mut last }, _) => {
                last.rotate_left(1);
                last[7] = byte;
                let open = open || last.ends_with(b"<think>");
                match byte {
                    _ if &last == b"</think>" => Place::Between,
                    b'{' | b'[' | b'"' | b'-' | b'0'..=b'9' if !open => {
                        let mut next = Self(Place::Between);
                        next.step(byte);
                        next.0
                    }
                    _ => Place::Before { open, last },
                }
            }
            (Place::String, b'"') => Place::Between,
            (Place::String, b'\\') => Place::Escape,
            (Place::String | Place::Escape, _) => Place::String,
            (Place::Number { length, exponent }, b'0'..=b'9') => {
                Place::Number { length: length + 1, exponent: exponent.map(|n| n + 1) }
            }
            (Place::Number { length, exponent }, b'.' | b'+' | b'-') => {
                Place::Number { length: length + 1, exponent }
            }
            (Place::Number { length, .. }, b'e' | b'E') => {
                Place::Number { length: length + 1, exponent: Some(0) }
            }
            (_, b'"') => Place::String,
            (_, b'-' | b'0'..=b'9') => Place::Number { length: 1, exponent: None },
            _ => Place::Between,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(text: &str, reasoning: Option<bool>) -> Numbers {
        let mut numbers = Numbers::new(reasoning);
        numbers.read(text.as_bytes());
        numbers
    }

    #[test]
    fn numbers_end_and_strings_have_none() {
        assert!(after("{\"a\": 1e2", None).exceeds(b"34"));
        assert!(!after("{\"a\": 1e2", None).exceeds(b"3, 12"));
        assert!(after(&"1".repeat(32), None).exceeds(b"1"));
        assert!(!after(&"1".repeat(31), None).exceeds(b"1}"));
        assert!(!after(&format!("\"\\\"{}", "1".repeat(40)), None).is_long());
        assert!(!after(&format!("[{} ,", "1".repeat(32)), None).is_long());
    }

    #[test]
    fn reasoning_is_free() {
        let digits = "1".repeat(40);
        assert!(!after(&digits, Some(true)).is_long());
        assert!(!after(&format!("<think>[{digits}"), Some(false)).is_long());
        assert!(after(&format!("<think>\"</think>[{digits}"), Some(false)).is_long());
        assert!(after(&format!("[{digits}"), Some(false)).is_long());
    }
}
