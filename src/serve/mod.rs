//! What a server of OpenAI's API needs besides HTTP.

pub mod grammar;
pub mod reasoning;
pub mod tools;
