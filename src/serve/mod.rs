//! What a server of OpenAI's API needs besides HTTP.

pub mod grammar;
mod json;
mod numbers;
pub mod reasoning;
mod schema;
mod tool_stream;
pub mod tools;
