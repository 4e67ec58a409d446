//! What a server of OpenAI's API needs besides HTTP.

pub mod grammar;
mod json;
mod numbers;
pub mod reasoning;
mod schema;
mod tool_stream;
pub mod tools;

/// How many bytes of `text` cannot be the beginning of `mark`, whatever follows.
fn hold(text: &str, mark: &str) -> usize {
    let first = text.len().saturating_sub(mark.len());
    (first..text.len())
        .find(|&at| text.is_char_boundary(at) && mark.starts_with(&text[at..]))
        .unwrap_or(text.len())
}
