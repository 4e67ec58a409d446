//! `generation_config.json`: how the model's makers suggest to sample from it.

use super::json::{self, Fields};
use crate::error::Result;

/// Suggestions of `generation_config.json`; a field that the file leaves out is `None` or empty.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct GenerationConfig {
    /// Tokens that end an answer.
    pub eos_token_ids: Vec<u32>,
    /// Whether to sample; if not, the most likely token is taken.
    pub do_sample: Option<bool>,
    /// Divisor of the logits, at least 0.
    pub temperature: Option<f32>,
    /// Sample among the most likely tokens that together have this probability, in [0, 1].
    pub top_p: Option<f32>,
    /// Sample among this many of the most likely tokens; 0 means all.
    pub top_k: Option<usize>,
    /// Sample among tokens at least this likely relative to the likeliest, in [0, 1].
    pub min_p: Option<f32>,
    /// Divisor of positive (factor of negative) logits of tokens already present, above 0.
    pub repetition_penalty: Option<f32>,
}

impl GenerationConfig {
    /// Reads the file's content; `file` is its name in errors.
    pub(crate) fn parse(file: &str, bytes: &[u8]) -> Result<Self> {
        let value = json::parse(file, bytes)?;
        let f = Fields::top(file, &value)?;
        let share = |field: &str| -> Result<Option<f32>> {
            let x = f.number(field, "a number from 0 to 1", |x| (0.0..=1.0).contains(&x))?;
            Ok(x.map(|x| x as f32))
        };
        let temperature = f.number("temperature", "a number of at least 0", |x| x >= 0.0)?;
        let penalty = f.number("repetition_penalty", "a positive number", |x| x > 0.0)?;
        Ok(Self {
            eos_token_ids: f.token_ids("eos_token_id")?,
            do_sample: f.optional("do_sample")?,
            temperature: temperature.map(|x| x as f32),
            top_p: share("top_p")?,
            top_k: f.count("top_k", 0..=u32::MAX as usize)?,
            min_p: share("min_p")?,
            repetition_penalty: penalty.map(|x| x as f32),
        })
    }
}
