//! What templates that were written for Python expect of values.
//!
//! Chat templates print JSON (`tojson`) and values, and models are trained on the exact text that
//! Python's `json.dumps` and `str` gave: [`Dumps`] and [`text`] give the same. [`method`] is for
//! methods of Python's types, [`strftime`] for dates.

use minijinja::value::{Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};
use minijinja_contrib::pycompat::unknown_method_callback;
use std::fmt::Write;

/// How deep values may be nested.
const MAX_DEPTH: usize = 200;

/// Layout of `json.dumps`.
pub(super) struct Dumps {
    pub(super) indent: Option<String>,
    pub(super) item_separator: String,
    pub(super) key_separator: String,
    pub(super) ensure_ascii: bool,
    pub(super) sort_keys: bool,
}

impl Dumps {
    /// `json.dumps(value, ...)`.
    pub(super) fn dumps(&self, value: &Value) -> Result<String, Error> {
        let mut out = String::new();
        self.write(&mut out, value, 0)?;
        Ok(out)
    }

    fn write(&self, out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(Error::new(ErrorKind::InvalidOperation, "value is nested too deeply"));
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&number(value, "NaN", "Infinity")),
            ValueKind::String => self.string(out, value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.container(out, ['[', ']'], items.len(), depth, |out, i| {
                    self.write(out, &items[i], depth + 1)
                })?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.container(out, ['{', '}'], keys.len(), depth, |out, i| {
                    self.string(out, &json_key(&keys[i]));
                    out.push_str(&self.key_separator);
                    self.write(out, &value.get_item(&keys[i])?, depth + 1)
                })?;
            }
            other => {
                let message = format!("{other} value is not JSON serializable");
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        }
        Ok(())
    }

    fn container(
        &self,
        out: &mut String,
        brackets: [char; 2],
        len: usize,
        depth: usize,
        mut item: impl FnMut(&mut String, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let line = |out: &mut String, depth: usize| {
            if let Some(indent) = &self.indent {
                out.push('\n');
                out.extend(std::iter::repeat_n(indent.as_str(), depth));
            }
        };
        out.push(brackets[0]);
        for i in 0..len {
            if i > 0 {
                out.push_str(&self.item_separator);
            }
            line(out, depth + 1);
            item(out, i)?;
        }
        if len > 0 {
            line(out, depth);
        }
        out.push(brackets[1]);
        Ok(())
    }

    fn string(&self, out: &mut String, text: &str) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' ' || (self.ensure_ascii && !(' '..='~').contains(&c)) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}"); // writing to a String cannot fail
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

/// Keys that are not strings become strings as `json.dumps` makes them.
fn json_key(key: &Value) -> String {
    match key.kind() {
        ValueKind::None => "null".to_owned(),
        ValueKind::Bool => key.is_true().to_string(),
        ValueKind::Number => number(key, "NaN", "Infinity"),
        _ => key.to_string(),
    }
}

/// A number as Python prints it: floats by shortest round trip, exponents from 1e16 on and below 1e-4.
fn number(value: &Value, nan: &str, infinity: &str) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    let Ok(x) = f64::try_from(value.clone()) else { return value.to_string() };
    let sign = if x.is_sign_negative() { "-" } else { "" };
    if x.is_nan() {
        nan.to_owned()
    } else if x.is_infinite() {
        format!("{sign}{infinity}")
    } else if x != 0.0 && !(1e-4..1e16).contains(&x.abs()) {
        let text = format!("{x:e}");
        match text.split_once('e') {
            Some((digits, exponent)) => {
                let (mark, size) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
                format!("{digits}e{mark}{size:0>2}")
            }
            None => text,
        }
    } else {
        format!("{x:?}") // keeps ".0"
    }
}

/// `str(value)`.
pub(super) fn text(value: &Value) -> String {
    match value.kind() {
        ValueKind::Number => number(value, "nan", "inf"),
        ValueKind::Seq | ValueKind::Map => {
            let mut out = String::new();
            repr(&mut out, value, 0);
            out
        }
        _ => value.to_string(),
    }
}

/// `repr(value)`.
fn repr(out: &mut String, value: &Value, depth: usize) {
    let list = |value: &Value| -> Vec<Value> { value.try_iter().into_iter().flatten().collect() };
    match value.kind() {
        _ if depth > MAX_DEPTH => out.push_str("..."),
        ValueKind::String => repr_string(out, value.as_str().unwrap_or_default()),
        ValueKind::Seq => {
            out.push('[');
            for (i, item) in list(value).iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                repr(out, item, depth + 1);
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in list(value).iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                repr(out, key, depth + 1);
                out.push_str(": ");
                repr(out, &value.get_item(key).unwrap_or_default(), depth + 1);
            }
            out.push('}');
        }
        _ => out.push_str(&text(value)),
    }
}

fn repr_string(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\x{:02x}", c as u32); // writing to a String cannot fail
            }
            c => out.push(c),
        }
    }
    out.push(quote);
}

/// Methods of Python's types: those of `minijinja_contrib`, and some of `str` that it lacks.
pub(super) fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let Some(text) = value.as_str() else { return unknown_method_callback(state, value, name, args) };
    let three = |found: Option<(&str, &str)>, sep: &str, missing: [&str; 3]| {
        Value::from_iter(found.map_or(missing, |(before, after)| [before, sep, after]))
    };
    Ok(match name {
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            text.strip_prefix(prefix).unwrap_or(text).into()
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            text.strip_suffix(suffix).unwrap_or(text).into()
        }
        "partition" => {
            let (sep,): (&str,) = from_args(args)?;
            three(text.split_once(sep), sep, [text, "", ""])
        }
        "rpartition" => {
            let (sep,): (&str,) = from_args(args)?;
            three(text.rsplit_once(sep), sep, ["", "", text])
        }
        "rsplit" => {
            let (sep, most): (&str, Option<i64>) = from_args(args)?;
            let most = most.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX - 1);
            let mut parts: Vec<&str> = text.rsplitn(most + 1, sep).collect();
            parts.reverse();
            Value::from_iter(parts)
        }
        _ => return unknown_method_callback(state, value, name, args),
    })
}

/// `time.strftime(format)` of a moment in UTC, for the directives that templates use; others stay.
pub(super) fn strftime(format: &str, unix_seconds: u64) -> String {
    const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let days = unix_seconds / 86400;
    let (hour, minute, second) = (unix_seconds / 3600 % 24, unix_seconds / 60 % 60, unix_seconds % 60);
    let (year, month, day, of_year) = civil(days);
    let (weekday, month_name) = (DAYS[(days % 7) as usize], MONTHS[month as usize - 1]);
    let twelve = (hour + 11) % 12 + 1;
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let rest = chars.as_str();
        let bare = rest.starts_with('-'); // %-d: no padding
        let Some(directive) = (if bare { rest.chars().nth(1) } else { rest.chars().next() }) else {
            out.push('%');
            break;
        };
        let padded = |n: u64, width: usize| if bare { n.to_string() } else { format!("{n:0width$}") };
        let piece = match directive {
            'Y' => year.to_string(),
            'y' => padded(year % 100, 2),
            'm' => padded(month, 2),
            'd' => padded(day, 2),
            'e' => {
                if bare {
                    day.to_string()
                } else {
                    format!("{day:2}")
                }
            }
            'j' => padded(of_year, 3),
            'B' => month_name.to_owned(),
            'b' | 'h' => month_name[..3].to_owned(),
            'A' => weekday.to_owned(),
            'a' => weekday[..3].to_owned(),
            'H' => padded(hour, 2),
            'I' => padded(twelve, 2),
            'M' => padded(minute, 2),
            'S' => padded(second, 2),
            'p' => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            'Z' => "UTC".to_owned(),
            'z' => "+0000".to_owned(),
            'F' => format!("{year}-{month:02}-{day:02}"),
            'T' => format!("{hour:02}:{minute:02}:{second:02}"),
            '%' => "%".to_owned(),
            other => format!("%{other}"),
        };
        out.push_str(&piece);
        chars.next();
        if bare {
            chars.next();
        }
    }
    out
}

/// Year, month, day of month and day of year of a day counted from 1970-01-01.
fn civil(mut days: u64) -> (u64, u64, u64, u64) {
    let leap = |y: u64| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
    let mut year = 1970 + days / 146_097 * 400; // whole cycles of the calendar
    days %= 146_097;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let of_year = days + 1;
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    (year, month as u64 + 1, days + 1, of_year)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let at = 1_795_392_000 + 13 * 3600 + 5 * 60 + 9; // 2026-11-23 00:00:00 UTC and a bit
        assert_eq!(strftime("%d %b %Y", at), "23 Nov 2026");
        assert_eq!(
            strftime("%A, %-d %B %y %H:%M:%S %I%p %j 100%% %Q %", at),
            "Monday, 23 November 26 13:05:09 01PM 327 100% %Q %"
        );
        assert_eq!(strftime("%F", 951_782_400), "2000-02-29");
        assert_eq!(strftime("%F %a", 0), "1970-01-01 Thu");
        assert_eq!(strftime("%F", 4_107_542_400), "2100-03-01");
    }

    #[test]
    fn numbers_and_values() {
        for (x, expected) in [
            (1.0, "1.0"),
            (1.5, "1.5"),
            (1e16, "1e+16"),
            (1e-5, "1e-05"),
            (0.0001, "0.0001"),
            (-0.0, "-0.0"),
            (1.25e100, "1.25e+100"),
            (123456789.0, "123456789.0"),
        ] {
            assert_eq!(text(&Value::from(x)), expected);
        }
        let value = Value::from_pairs([
            ("a", Value::from(vec![Value::from("it's"), Value::from(()), Value::from(true)])),
            ("b\n", Value::from(2)),
        ]);
        assert_eq!(text(&value), r#"{'a': ["it's", None, True], 'b\n': 2}"#);
    }
}
