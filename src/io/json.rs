//! Reading JSON so that errors name file and field.
//!
//! `serde` alone says "invalid type at line 3"; people need "config.json: `num_hidden_layers`: ...".
//! [`Fields`] is an object together with its path from the top of the file; each getter checks one
//! field. `null` counts as absent, as it does in `transformers`.

use super::files::check_is_content;
use crate::error::{Context, Error, Result};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::fmt::Display;
use std::ops::RangeInclusive;

/// Parses a JSON file.
pub(crate) fn parse(file: &str, bytes: &[u8]) -> Result<Value> {
    check_is_content(bytes).context(file)?;
    // Some editors put a byte order mark in front.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    serde_json::from_slice(bytes).map_err(|e| Error::format(format!("{file}: not valid JSON: {e}")))
}

/// A JSON object and what to call it.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a> {
    file: &'a str,
    path: String,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// The top of a file, which must be an object.
    pub(crate) fn top(file: &'a str, value: &'a Value) -> Result<Self> {
        let map = value
            .as_object()
            .ok_or_else(|| Error::format(format!("{file}: expected a JSON object at the top")))?;
        Ok(Self { file, path: String::new(), map })
    }

    /// An error about one field.
    pub(crate) fn error(&self, field: &str, message: impl Display) -> Error {
        Error::format(format!("{}: `{}{field}`: {message}", self.file, self.path))
    }

    /// The same, for what is well formed but cannot be run.
    pub(crate) fn unsupported(&self, field: &str, message: impl Display) -> Error {
        Error::unsupported(format!("{}: `{}{field}`: {message}", self.file, self.path))
    }

    /// The raw value, unless absent or `null`.
    pub(crate) fn raw(&self, field: &str) -> Option<&'a Value> {
        self.map.get(field).filter(|v| !v.is_null())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'a String, &'a Value)> {
        self.map.iter()
    }

    /// A nested object.
    pub(crate) fn object(&self, field: &str) -> Result<Option<Self>> {
        match self.raw(field) {
            None => Ok(None),
            Some(Value::Object(map)) => {
                Ok(Some(Self { file: self.file, path: format!("{}{field}.", self.path), map }))
            }
            Some(other) => Err(self.error(field, format_args!("expected an object, found {}", short(other)))),
        }
    }

    /// A field of any type that serde can read.
    pub(crate) fn optional<T: DeserializeOwned>(&self, field: &str) -> Result<Option<T>> {
        let Some(value) = self.raw(field) else { return Ok(None) };
        T::deserialize(value).map(Some).map_err(|e| self.error(field, e))
    }

    pub(crate) fn or<T: DeserializeOwned>(&self, field: &str, default: T) -> Result<T> {
        Ok(self.optional(field)?.unwrap_or(default))
    }

    /// A count within sensible bounds.
    pub(crate) fn count(&self, field: &str, range: RangeInclusive<usize>) -> Result<Option<usize>> {
        let Some(value) = self.raw(field) else { return Ok(None) };
        match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(n) if range.contains(&n) => Ok(Some(n)),
            _ => Err(self.error(
                field,
                format_args!(
                    "expected a whole number from {} to {}, found {}",
                    range.start(),
                    range.end(),
                    short(value)
                ),
            )),
        }
    }

    pub(crate) fn required_count(&self, field: &str, range: RangeInclusive<usize>) -> Result<usize> {
        self.count(field, range)?.ok_or_else(|| self.missing(field))
    }

    /// A finite number that passes `check`; `wanted` says in words what that is.
    pub(crate) fn number(&self, field: &str, wanted: &str, check: fn(f64) -> bool) -> Result<Option<f64>> {
        let Some(value) = self.raw(field) else { return Ok(None) };
        match value.as_f64() {
            Some(x) if x.is_finite() && check(x) => Ok(Some(x)),
            _ => Err(self.error(field, format_args!("expected {wanted}, found {}", short(value)))),
        }
    }

    pub(crate) fn missing(&self, field: &str) -> Error {
        self.error(field, "missing")
    }

    /// Token ids: absent, one number or a list.
    pub(crate) fn token_ids(&self, field: &str) -> Result<Vec<u32>> {
        match self.raw(field) {
            None => Ok(Vec::new()),
            Some(Value::Array(_)) => self.or(field, Vec::new()),
            Some(_) => Ok(self.optional(field)?.into_iter().collect()),
        }
    }
}

/// A value as an error shows it.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
