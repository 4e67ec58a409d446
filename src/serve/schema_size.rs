//! How large a schema is, and how large it becomes.

use super::schema::{ANNOTATIONS, MOST_DEPTH, below, too_large};
use crate::error::Result;
use serde_json::Value;

/// Bytes of a schema as text.
const MOST_BYTES: usize = 256 << 10;
/// Schemas after alternatives are multiplied out with what stands beside them.
const MOST_EXPANDED: usize = 50_000;

/// Refuses a schema of too many bytes.
pub(super) fn check_text(schema: &Value) -> Result<()> {
    let mut bytes = 0;
    measure(schema, 0, &mut bytes).ok_or_else(|| too_large("#", "the schema", "bytes", MOST_BYTES))
}

/// Refuses alternatives that multiply out to too much.
pub(super) fn check_expanded(schema: &Value) -> Result<()> {
    let mut budget = 2 * MOST_EXPANDED;
    Weigh { root: schema, budget: &mut budget }.expanded(schema, "", 0).map(drop)
}

/// Adds up bytes, without recursing deep; `None` is too many or too deep.
fn measure(value: &Value, depth: usize, bytes: &mut usize) -> Option<()> {
    *bytes += match value {
        Value::String(text) => text.len() + 2,
        _ => 4,
    };
    if *bytes > MOST_BYTES || depth > 4 * MOST_DEPTH {
        return None;
    }
    match value {
        Value::Array(list) => list.iter().try_for_each(|v| measure(v, depth + 1, bytes)),
        Value::Object(map) => map.iter().try_for_each(|(key, v)| {
            *bytes += key.len() + 4;
            measure(v, depth + 1, bytes)
        }),
        _ => Some(()),
    }
}

/// How large a schema becomes when its alternatives are multiplied out.
struct Weigh<'a, 'b> {
    root: &'a Value,
    budget: &'b mut usize,
}

impl Weigh<'_, '_> {
    fn expanded(&mut self, node: &Value, place: &str, depth: usize) -> Result<usize> {
        let (alternatives, size) = self.weight(node, place, depth)?;
        let expanded = alternatives.saturating_mul(size);
        if expanded > MOST_EXPANDED {
            return Err(too_large(place, "what the alternatives multiply out to", "schemas", MOST_EXPANDED));
        }
        Ok(expanded)
    }

    /// Alternatives, and the size of each.
    fn weight(&mut self, node: &Value, place: &str, depth: usize) -> Result<(usize, usize)> {
        if *self.budget == 0 || depth > 2 * MOST_DEPTH {
            return Err(too_large(place, "what is combined here", "schemas", MOST_EXPANDED));
        }
        *self.budget -= 1;
        let Value::Object(fields) = node else { return Ok((1, 1)) };
        let beside = fields.keys().filter(|key| !ANNOTATIONS.contains(&key.as_str())).count();
        let (mut alternatives, mut size) = (1usize, 1usize);
        for (key, value) in fields {
            let at = below(place, key);
            match (key.as_str(), value) {
                ("properties" | "patternProperties", Value::Object(map)) => {
                    for (name, v) in map {
                        size = size.saturating_add(self.expanded(v, &below(&at, name), depth + 1)?);
                    }
                }
                ("items" | "additionalProperties", v) => {
                    size = size.saturating_add(self.expanded(v, &at, depth + 1)?);
                }
                ("prefixItems", Value::Array(list)) => {
                    for v in list {
                        size = size.saturating_add(self.expanded(v, &at, depth + 1)?);
                    }
                }
                ("allOf", Value::Array(list)) => {
                    for v in list {
                        let (a, s) = self.weight(v, &at, depth + 1)?;
                        (alternatives, size) = (alternatives.saturating_mul(a), size.saturating_add(s));
                    }
                }
                ("anyOf" | "oneOf", Value::Array(list)) => {
                    let (mut sum, mut most) = (0usize, 0);
                    for v in list {
                        let (a, s) = self.weight(v, &at, depth + 1)?;
                        (sum, most) = (sum.saturating_add(a), most.max(s));
                    }
                    (alternatives, size) = (alternatives.saturating_mul(sum), size.saturating_add(most));
                }
                ("enum", Value::Array(list)) => alternatives = alternatives.saturating_mul(list.len()),
                ("$ref", Value::String(to)) if beside > 1 => {
                    if let Some(target) = self.root.pointer(to.trim_start_matches('#')) {
                        let (a, s) = self.weight(target, &at, depth + 1)?;
                        (alternatives, size) = (alternatives.saturating_mul(a), size.saturating_add(s));
                    }
                }
                _ => {}
            }
        }
        Ok((alternatives, size))
    }
}
