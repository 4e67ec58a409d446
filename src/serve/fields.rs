//! [`Fields`]: a JSON object whose every field is taken or refused.
//!
//! `null` is the same as absence, as OpenAI's clients mean it.

use super::error::ApiError;
use serde_json::{Map, Value};

type Result<T> = std::result::Result<T, ApiError>;

/// The fields that nobody has taken yet.
#[derive(Debug)]
pub(super) struct Fields {
    map: Map<String, Value>,
    /// What errors call the object: empty, or `messages[3].`
    at: String,
}

impl Fields {
    pub(super) fn new(value: Value, at: &str) -> Result<Self> {
        match value {
            Value::Object(map) => {
                let at = if at.is_empty() { String::new() } else { format!("{at}.") };
                Ok(Self { map, at })
            }
            other => {
                let what = if at.is_empty() { "The body" } else { at };
                Err(wrong(at, format!("{what} must be a JSON object, not {}", kind(&other))))
            }
        }
    }

    /// The full name of a field.
    pub(super) fn name(&self, field: &str) -> String {
        format!("{}{field}", self.at)
    }

    pub(super) fn has(&self, field: &str) -> bool {
        self.map.get(field).is_some_and(|v| !v.is_null())
    }

    pub(super) fn raw(&mut self, field: &str) -> Option<Value> {
        self.map.remove(field).filter(|v| !v.is_null())
    }

    fn typed<T>(
        &mut self,
        field: &str,
        wanted: &str,
        of: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.raw(field) else { return Ok(None) };
        match of(&value) {
            Some(value) => Ok(Some(value)),
            None => {
                let name = self.name(field);
                let got = match &value {
                    Value::Number(n) => n.to_string(),
                    other => kind(other).to_owned(),
                };
                Err(wrong(&name, format!("`{name}` must be {wanted}, not {got}")))
            }
        }
    }

    pub(super) fn bool(&mut self, field: &str) -> Result<Option<bool>> {
        self.typed(field, "true or false", Value::as_bool)
    }

    pub(super) fn string(&mut self, field: &str) -> Result<Option<String>> {
        self.typed(field, "a string", |v| v.as_str().map(str::to_owned))
    }

    pub(super) fn count(&mut self, field: &str, least: u64, most: u64) -> Result<Option<usize>> {
        let whole = |v: &Value| {
            let n = v
                .as_u64()
                .or_else(|| v.as_f64().filter(|x| x.fract() == 0.0 && *x >= 0.0).map(|x| x as u64))?;
            (least..=most).contains(&n).then_some(n as usize)
        };
        let wanted = match most {
            u64::MAX => format!("a whole number of at least {least}"),
            most => format!("a whole number from {least} to {most}"),
        };
        self.typed(field, &wanted, whole)
    }

    pub(super) fn number(&mut self, field: &str, least: f64, most: f64) -> Result<Option<f32>> {
        let inside = |v: &Value| v.as_f64().filter(|x| (least..=most).contains(x)).map(|x| x as f32);
        self.typed(field, &format!("a number from {least} to {most}"), inside)
    }

    pub(super) fn array(&mut self, field: &str) -> Result<Option<Vec<Value>>> {
        match self.raw(field) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(other) => {
                let name = self.name(field);
                Err(wrong(&name, format!("`{name}` must be an array, not {}", kind(&other))))
            }
        }
    }

    pub(super) fn object(&mut self, field: &str) -> Result<Option<Map<String, Value>>> {
        match self.raw(field) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(other) => {
                let name = self.name(field);
                Err(wrong(&name, format!("`{name}` must be an object, not {}", kind(&other))))
            }
        }
    }

    pub(super) fn required<T>(&self, field: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| {
            let name = self.name(field);
            let error = ApiError::value(&name, format!("`{name}` is required"));
            ApiError { code: Some("missing_required_parameter"), ..error }
        })
    }

    /// Takes a field that changes nothing if it has one of these values, and is refused otherwise.
    pub(super) fn neutral(&mut self, field: &str, values: &[Value]) -> Result<()> {
        match self.raw(field) {
            Some(value) if !values.contains(&value) => {
                let name = self.name(field);
                Err(ApiError::unsupported(&name, format!("`{name}` is not supported by this server")))
            }
            _ => Ok(()),
        }
    }

    /// Takes a field that has no effect here, whatever its value.
    pub(super) fn harmless(&mut self, field: &str) {
        self.map.remove(field);
    }

    /// Refuses what nobody has taken.
    pub(super) fn finish(mut self) -> Result<()> {
        self.map.retain(|_, v| !v.is_null());
        let Some(field) = self.map.keys().next() else { return Ok(()) };
        // A name may be as long as the body.
        let field: String = field.chars().take(64).collect();
        let name = self.name(&field);
        let error = ApiError::unsupported(&name, format!("Unrecognized request argument supplied: {name}"));
        Err(ApiError { code: Some("unknown_parameter"), ..error })
    }
}

fn wrong(param: &str, message: String) -> ApiError {
    let error = ApiError::bad(message);
    let param = (!param.is_empty()).then(|| param.to_owned());
    ApiError { param, code: Some("invalid_type"), ..error }
}

pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
