//! JSON Schemas that come with a request: checked before a grammar is made of them.
//!
//! A keyword that the grammar cannot enforce is refused, and so is what would take long or much memory to
//! compile. Every refusal names the place in the schema.

use super::schema_size;
use crate::error::{Error, Result};
use serde_json::{Map, Value, json};
use std::collections::HashSet;

/// Schemas, names and constants in a schema.
const MOST_NODES: usize = 4096;
/// Schemas within one another.
pub(super) const MOST_DEPTH: usize = 64;
/// Items, properties.
const MOST_COUNT: u64 = 4096;
/// Characters of a string.
const MOST_CHARS: u64 = 65_536;
/// Bytes of a regular expression.
pub(super) const MOST_PATTERN: usize = 4096;
/// Whole numbers up to this are exact in an f64, and no other rounds to them.
const MOST_NUMBER: f64 = 9_007_199_254_740_991.0;

/// Keywords that say nothing about what is valid.
pub(super) const ANNOTATIONS: &[&str] = &[
    "$anchor",
    "$comment",
    "$defs",
    "contentEncoding",
    "contentMediaType",
    "default",
    "definitions",
    "deprecated",
    "description",
    "discriminator",
    "example",
    "examples",
    "readOnly",
    "title",
    "writeOnly",
];
/// Formats of strings.
const FORMATS: &[&str] =
    &["date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid"];
/// Formats that say what a value is for, not what it looks like.
const FREE_FORMATS: &[&str] =
    &["binary", "directory-path", "double", "file-path", "float", "password", "path"];
const TYPES: &[&str] = &["null", "boolean", "integer", "number", "string", "array", "object"];

/// A schema that can be compiled.
#[derive(Clone, Debug)]
pub(super) struct Checked {
    /// What the compiler gets.
    pub(super) schema: Value,
    /// Where schemas are, as JSON pointers, outermost first.
    pub(super) places: Vec<String>,
}

/// Checks a schema.
///
/// # Errors
/// Something is malformed, unsupported or too large; the message begins with its place.
pub(super) fn check(schema: &Value) -> Result<Checked> {
    schema_size::check_text(schema)?;
    let mut walk = Walk {
        root: schema,
        nodes: 0,
        queue: vec![String::new()],
        seen: HashSet::new(),
        drop: Vec::new(),
        exclusive: Vec::new(),
        bounded: Vec::new(),
        ranges: Vec::new(),
        add: Vec::new(),
        open: Vec::new(),
        combined: false,
    };
    let mut places = Vec::new();
    while let Some(place) = walk.queue.pop() {
        if !walk.seen.insert(place.clone()) {
            continue;
        }
        let Some(node) = schema.pointer(&place) else {
            return Err(Error::input(format!("{}: no such place in the schema", shown(&place))));
        };
        places.push(place.clone());
        walk.node(node, &place)?;
    }
    schema_size::check_expanded(schema)?;
    let mut schema = schema.clone();
    for (place, key) in walk.drop {
        if let Some(Value::Object(fields)) = schema.pointer_mut(&place) {
            fields.shift_remove(key);
        }
    }
    for place in walk.exclusive {
        if let Some(Value::Object(fields)) = schema.pointer_mut(&place) {
            include(fields);
        }
    }
    for place in walk.bounded {
        if let Some(Value::Object(fields)) = schema.pointer_mut(&place) {
            fields.entry("minimum").or_insert(json!(-MOST_NUMBER));
            fields.entry("maximum").or_insert(json!(MOST_NUMBER));
        }
    }
    for (place, least, most) in walk.ranges {
        if let Some(Value::Object(fields)) = schema.pointer_mut(&place) {
            let bound = |key, other: f64| fields.get(key).and_then(Value::as_f64).unwrap_or(other);
            let (least, most) = (bound("minimum", least).max(least), bound("maximum", most).min(most));
            fields.insert("minimum".to_owned(), json!(least));
            fields.insert("maximum".to_owned(), json!(most));
        }
    }
    for place in walk.open.iter().filter(|_| !walk.combined) {
        if let Some(Value::Object(fields)) = schema.pointer_mut(place) {
            let more: Vec<String> = unnamed(fields).map(str::to_owned).collect();
            if let Some(Value::Object(named)) = fields.get_mut("properties") {
                named.extend(more.into_iter().map(|name| (name, true.into())));
            }
            fields.insert("additionalProperties".to_owned(), false.into());
        }
    }
    for (place, pattern) in walk.add {
        if let Some(Value::Object(fields)) = schema.pointer_mut(&place) {
            let all = fields.entry("allOf").or_insert_with(|| Value::Array(Vec::new()));
            all.as_array_mut().into_iter().for_each(|all| all.push(json!({"pattern": pattern})));
        }
    }
    places.sort_by_key(|place| place.matches('/').count());
    Ok(Checked { schema, places })
}

/// The compiler takes a whole number that bounds a range towards zero as part of it, even if it is not. The
/// bound becomes the next number of 6 digits (3 if it is large) that is in the range: a part of what is valid.
fn include(fields: &mut Map<String, Value>) {
    for (exclusive, inclusive, up) in
        [("exclusiveMinimum", "minimum", true), ("exclusiveMaximum", "maximum", false)]
    {
        let sign = if up { 1.0 } else { -1.0 };
        let Some(bound) = fields.get(exclusive).and_then(Value::as_f64).map(|n| sign * n) else { continue };
        if bound < 0.0 || bound.fract() != 0.0 {
            continue;
        }
        let next = match bound {
            n if n < 1e6 => n + 1e-6,
            n if n < 1e12 => n + 1e-3,
            n => n + 1.0,
        };
        let other = fields.get(inclusive).and_then(Value::as_f64).map_or(next, |n| next.max(sign * n));
        fields.shift_remove(exclusive);
        fields.insert(inclusive.to_owned(), json!(sign * other));
    }
}

/// A place as people write it.
pub(super) fn shown(place: &str) -> String {
    format!("schema #{place}")
}

pub(super) fn too_large(place: &str, what: &str, unit: &str, most: impl std::fmt::Display) -> Error {
    let place = place.trim_start_matches('#');
    Error::input(format!("{}: {what} is too large, {most} {unit} are the most", shown(place)))
}

struct Walk<'a> {
    root: &'a Value,
    nodes: usize,
    queue: Vec<String>,
    seen: HashSet<String>,
    /// Keywords without effect that the compiler does not know.
    drop: Vec<(String, &'static str)>,
    /// Where there are bounds that are not in their range.
    exclusive: Vec<String>,
    /// Where numbers must be exact.
    bounded: Vec<String>,
    /// Where numbers have the range of a machine's.
    ranges: Vec<(String, f64, f64)>,
    /// Patterns that strings must match as well.
    add: Vec<(String, String)>,
    /// Where objects name their properties and do not say whether there are others: there are none.
    open: Vec<String>,
    /// Schemas are combined, so that the properties of one may be the others of another.
    combined: bool,
}

/// The range of a format of whole numbers, as far as it is exact.
fn range(format: &str) -> Option<(f64, f64)> {
    let (signed, bits) = match format.strip_prefix('u') {
        Some(rest) => (false, rest.strip_prefix("int")?),
        None => (true, format.strip_prefix("int")?),
    };
    let bits: i32 = match bits {
        "" | "64" => 53,
        "8" | "16" | "32" => bits.parse().ok()?,
        _ => return None,
    };
    let all = 2f64.powi(bits);
    Some(match signed && bits < 53 {
        true => (-all / 2.0, all / 2.0 - 1.0),
        false => (if signed { 1.0 - all } else { 0.0 }, all - 1.0),
    })
}

/// Whether an object may be closed: its properties are named, and nothing says whether there are others.
fn is_open(fields: &Map<String, Value>) -> bool {
    let decided = ["additionalProperties", "patternProperties", "minProperties"];
    fields.get("properties").is_some_and(Value::is_object)
        && !decided.iter().any(|key| fields.contains_key(*key))
}

/// Properties that objects must have and that are not among those that are named: they may be anything.
fn unnamed(fields: &Map<String, Value>) -> impl Iterator<Item = &str> {
    let named = fields.get("properties").and_then(Value::as_object);
    let required = fields.get("required").and_then(Value::as_array).into_iter().flatten();
    let required = required.filter_map(Value::as_str);
    required.filter(move |name| named.is_none_or(|named| !named.contains_key(*name)))
}

/// A property that objects must have and cannot.
fn impossible(fields: &Map<String, Value>) -> Option<&str> {
    let object = match fields.get("type") {
        Some(Value::Array(types)) => types.iter().any(|name| name == "object"),
        other => other.is_none_or(|name| name == "object"),
    };
    let closed = fields.get("additionalProperties") == Some(&Value::Bool(false));
    unnamed(fields).next().filter(|_| object && closed && !fields.contains_key("patternProperties"))
}

/// What a format must match besides the compiler's own idea of it, which lets days and seconds pass
/// that do not exist, and names without end: a part of what is valid.
fn narrow(format: &str) -> Option<String> {
    const DATE: &str =
        "[0-9]{4}-((0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])|(0[13-9]|1[0-2])-(29|30)|(0[13578]|1[02])-31)";
    const TIME: &str =
        "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])";
    const LABEL: &str = "[A-Za-z0-9]{1,20}(-[A-Za-z0-9]{1,20})?";
    match format {
        "date" => Some(format!("^({DATE})$")),
        "time" => Some(format!("^({TIME})$")),
        "date-time" => Some(format!("^({DATE})T({TIME})$")),
        "hostname" => Some(format!("^{LABEL}(\\.{LABEL}){{0,2}}$")),
        "email" => Some(format!("^{LABEL}([._+][A-Za-z0-9]{{1,20}})?@({LABEL}\\.){{1,2}}[A-Za-z]{{2,20}}$")),
        _ => None,
    }
}

pub(super) fn below(place: &str, key: &str) -> String {
    format!("{place}/{}", key.replace('~', "~0").replace('/', "~1"))
}

impl Walk<'_> {
    fn count(&mut self, n: usize, place: &str) -> Result<()> {
        self.nodes += n;
        if self.nodes > MOST_NODES {
            return Err(too_large(place, "the schema", "schemas, names and constants", MOST_NODES));
        }
        if place.matches('/').count() > 2 * MOST_DEPTH {
            return Err(too_large(place, "the nesting", "schemas within one another", MOST_DEPTH));
        }
        Ok(())
    }

    fn node(&mut self, node: &Value, place: &str) -> Result<()> {
        self.count(1, place)?;
        let fields = match node {
            Value::Bool(_) => return Ok(()),
            Value::Object(fields) => fields,
            _ => return Err(Error::input(format!("{}: expected an object or a boolean", shown(place)))),
        };
        let beside = |key: &&str| fields.contains_key(*key);
        let several = fields.get("allOf").and_then(Value::as_array).is_some_and(|all| all.len() > 1);
        let names = beside(&"properties") || beside(&"required");
        let joined = names && ["$ref", "allOf", "anyOf"].iter().any(beside);
        self.combined |= several || joined || beside(&"oneOf");
        self.open.extend(is_open(fields).then(|| place.to_owned()));
        for (key, value) in fields {
            self.keyword(key, value, fields, place)?;
        }
        match impossible(fields) {
            Some(name) => Err(Error::input(format!(
                "{}: `{name}` is not among the properties, and `additionalProperties` is false: no object is valid",
                shown(&below(place, "required"))
            ))),
            None => Ok(()),
        }
    }

    fn keyword(&mut self, key: &str, value: &Value, all: &Map<String, Value>, place: &str) -> Result<()> {
        let at = below(place, key);
        match key {
            "type" => {
                let known = |v: &Value| v.as_str().is_some_and(|t| TYPES.contains(&t));
                let list = value.as_array().is_some_and(|list| !list.is_empty() && list.iter().all(known));
                if list || known(value) { Ok(()) } else { expected(&at, "names of JSON types") }
            }
            "enum" => match value.as_array() {
                Some(list) if !list.is_empty() => list.iter().try_for_each(|v| self.constant(v, &at)),
                _ => expected(&at, "a list of values"),
            },
            "const" => self.constant(value, &at),
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf" => {
                self.number(key, value, place)
            }
            "minLength" | "maxLength" => whole(value, MOST_CHARS, &at),
            "minItems" | "maxItems" | "minProperties" | "maxProperties" => whole(value, MOST_COUNT, &at),
            "pattern" => match value.as_str() {
                Some(pattern) => short(pattern, &at),
                None => expected(&at, "a regular expression"),
            },
            "format" => self.format(value, place),
            "required" => match value.as_array() {
                Some(list) if list.iter().all(Value::is_string) => self.count(list.len(), &at),
                _ => expected(&at, "a list of names"),
            },
            "properties"
            | "patternProperties"
            | "items"
            | "additionalProperties"
            | "prefixItems"
            | "anyOf"
            | "oneOf"
            | "allOf" => self.schemas(key, value, at),
            "$ref" => self.reference(value, &at),
            "uniqueItems" if value == &Value::Bool(false) => {
                self.drop.push((place.to_owned(), "uniqueItems"));
                Ok(())
            }
            "$schema" | "$id" | "id" if place.is_empty() => {
                self.drop.push((String::new(), if key == "$schema" { "$schema" } else { "$id" }));
                Ok(())
            }
            _ if ANNOTATIONS.contains(&key) || (key.starts_with("x-") && key != "x-guidance") => Ok(()),
            _ => {
                let beside = if all.len() == 1 { "" } else { " beside the others" };
                unsupported(&at, &format!("the keyword `{key}`{beside} cannot be enforced"))
            }
        }
    }

    /// A bound of numbers, or what they are multiples of.
    fn number(&mut self, key: &str, value: &Value, place: &str) -> Result<()> {
        let at = below(place, key);
        match value.as_f64() {
            Some(n) if key == "multipleOf" && n > 0.0 && n <= MOST_NUMBER => {
                self.bounded.push(place.to_owned());
                Ok(())
            }
            _ if key == "multipleOf" => expected(&at, "a number above 0, at most 2^53"),
            Some(n) if n.abs() <= MOST_NUMBER => {
                self.exclusive.extend(key.starts_with('e').then(|| place.to_owned()));
                Ok(())
            }
            Some(_) => unsupported(&at, "a number beyond 2^53 cannot be enforced"),
            None => expected(&at, "a number"),
        }
    }

    fn format(&mut self, value: &Value, place: &str) -> Result<()> {
        let at = below(place, "format");
        match value.as_str() {
            Some(name) if FORMATS.contains(&name) => {
                self.add.extend(narrow(name).map(|pattern| (place.to_owned(), pattern)));
                Ok(())
            }
            Some(name) if FREE_FORMATS.contains(&name) || range(name).is_some() => {
                self.ranges.extend(range(name).map(|(least, most)| (place.to_owned(), least, most)));
                self.drop.push((place.to_owned(), "format"));
                Ok(())
            }
            Some(name) => unsupported(&at, &format!("the format `{name}` cannot be enforced")),
            None => expected(&at, "a name"),
        }
    }

    /// Keywords that hold schemas, which are looked at later.
    fn schemas(&mut self, key: &str, value: &Value, at: String) -> Result<()> {
        match (key, value) {
            ("properties" | "patternProperties", Value::Object(map)) => {
                for (name, _) in map {
                    if key == "patternProperties" {
                        short(name, &below(&at, name))?;
                    }
                    self.queue.push(below(&at, name));
                }
                self.count(map.len(), &at)
            }
            ("properties" | "patternProperties", _) => expected(&at, "an object of schemas"),
            ("items", Value::Array(_)) => unsupported(&at, "a list of schemas here is `prefixItems` now"),
            ("items" | "additionalProperties", _) => {
                self.queue.push(at);
                Ok(())
            }
            (_, Value::Array(list)) if !list.is_empty() => {
                self.queue.extend((0..list.len()).map(|i| below(&at, &i.to_string())));
                self.count(list.len(), &at)
            }
            _ => expected(&at, "a list of schemas"),
        }
    }

    fn reference(&mut self, value: &Value, at: &str) -> Result<()> {
        match value.as_str() {
            Some("#") => Ok(()),
            Some(to) if to.starts_with("#/") && to.len() > 2 && !to.contains(['~', '%']) => {
                if self.root.pointer(&to[1..]).is_none() {
                    return Err(Error::input(format!("{}: {to} is not there", shown(at))));
                }
                self.queue.push(to[1..].to_owned());
                Ok(())
            }
            _ => unsupported(at, "only references within the schema, as `#/$defs/name`"),
        }
    }

    /// Numbers that the grammar would round are refused.
    fn constant(&mut self, value: &Value, place: &str) -> Result<()> {
        self.count(1, place)?;
        match value {
            Value::Number(n) if n.as_f64().is_none_or(|n| n.abs() > MOST_NUMBER) => {
                let place = shown(place);
                Err(Error::unsupported(format!("{place}: a number beyond 2^53 cannot be enforced")))
            }
            Value::Array(list) => list.iter().try_for_each(|v| self.constant(v, place)),
            Value::Object(map) => map.values().try_for_each(|v| self.constant(v, place)),
            _ => Ok(()),
        }
    }
}

fn expected(at: &str, what: &str) -> Result<()> {
    Err(Error::input(format!("{}: expected {what}", shown(at))))
}

fn unsupported(at: &str, what: &str) -> Result<()> {
    Err(Error::unsupported(format!("{}: {what}", shown(at))))
}

fn whole(value: &Value, most: u64, at: &str) -> Result<()> {
    match value.as_u64() {
        Some(n) if n <= most => Ok(()),
        Some(_) => Err(too_large(at, "the number", "here", most)),
        None => Err(Error::input(format!("{}: expected a whole number", shown(at)))),
    }
}

fn short(pattern: &str, at: &str) -> Result<()> {
    if pattern.len() > MOST_PATTERN {
        return Err(too_large(at, "the regular expression", "bytes", MOST_PATTERN));
    }
    if ends_in_escape(pattern) {
        return Err(Error::input(format!("{}: the regular expression ends in `\\`", shown(at))));
    }
    Ok(())
}

/// The compiler would drop a backslash with nothing after it.
pub(super) fn ends_in_escape(pattern: &str) -> bool {
    pattern.bytes().rev().take_while(|&b| b == b'\\').count() % 2 == 1
}

#[cfg(test)]
#[path = "schema_tests.rs"]
mod tests;
