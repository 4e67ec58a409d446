//! The form that a request wants its answer to have: `response_format`, or `text.format` of the Responses API.

use super::error::ApiError;
use super::fields::Fields;
use super::grammar::Constraint;
use serde_json::Value;

type Result<T> = std::result::Result<T, ApiError>;

/// Takes `response_format` of a chat or a completion.
pub(super) fn response_format(fields: &mut Fields) -> Result<Option<Constraint>> {
    match fields.raw("response_format") {
        Some(format) => form(Fields::new(format, "response_format")?, false),
        None => Ok(None),
    }
}

/// Takes `text` of a response; the form, and the field `format` as it was.
pub(super) fn text_format(fields: &mut Fields) -> Result<(Option<Constraint>, Option<Value>)> {
    let Some(text) = fields.raw("text") else { return Ok((None, None)) };
    let mut text = Fields::new(text, "text")?;
    text.neutral("verbosity", &["medium".into()])?;
    let format = text.raw("format");
    text.finish()?;
    match format {
        Some(format) => Ok((form(Fields::new(format.clone(), "text.format")?, true)?, Some(format))),
        None => Ok((None, None)),
    }
}

/// `flat`: the schema and its name are not in an object of their own.
fn form(mut format: Fields, flat: bool) -> Result<Option<Constraint>> {
    let kind = format.string("type")?;
    let form = match format.required("type", kind)?.as_str() {
        "text" => None,
        "json_object" => match format.raw("schema") {
            // No part of the standard, but in use.
            Some(schema) => Some(schema_of(&schema, format.name("schema"))?),
            None => Some(Constraint::json_object()),
        },
        "json_schema" if flat => Some(json_schema(&mut format)?),
        "json_schema" => {
            let inner = format.raw("json_schema");
            let inner = format.required("json_schema", inner)?;
            let mut inner = Fields::new(inner, "response_format.json_schema")?;
            let form = json_schema(&mut inner)?;
            inner.finish()?;
            Some(form)
        }
        "regex" => {
            // There is no standard for it; these are the names in use.
            let names = ["regex", "pattern", "value"].into_iter();
            let name = names.clone().find(|name| format.has(name)).unwrap_or("regex");
            let regex = format.string(name)?;
            let regex = format.required(name, regex)?;
            Some(Constraint::regex(&regex).map_err(|e| ApiError::value(format.name(name), e))?)
        }
        _ => {
            let name = format.name("type");
            let message = format!("`{name}` must be text, json_object, json_schema or regex");
            return Err(ApiError::unsupported(name, message));
        }
    };
    format.finish()?;
    Ok(form)
}

fn json_schema(fields: &mut Fields) -> Result<Constraint> {
    let name = fields.string("name")?;
    let name = fields.required("name", name)?;
    let fits = |c: u8| c.is_ascii_alphanumeric() || c == b'_' || c == b'-';
    if name.is_empty() || name.len() > 64 || !name.bytes().all(fits) {
        let message = "the name of a schema must have 1 to 64 letters, digits, `_`, `-`";
        return Err(ApiError::value(fields.name("name"), message));
    }
    fields.string("description")?;
    // Strict or not, the schema is kept.
    fields.bool("strict")?;
    let schema = fields.raw("schema");
    let schema = fields.required("schema", schema)?;
    schema_of(&schema, fields.name("schema"))
}

fn schema_of(schema: &Value, param: String) -> Result<Constraint> {
    Constraint::json_schema(schema).map_err(|e| ApiError::value(param, e))
}
