//! How to sample and when to stop.

use super::runner::Want;
use crate::error::{Error, Result};
use crate::io::GenerationConfig;

/// How to sample and when to stop. The default is greedy and ends where the model does.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// The most tokens to generate; by default as many as the context holds.
    pub max_tokens: Option<usize>,
    /// Divisor of the logits; 0 takes the likeliest token.
    pub temperature: f32,
    /// Keep this many of the likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the likeliest tokens that together have this probability, above 0; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this likely relative to the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Divisor of positive and factor of negative logits of tokens already in the context; 1 changes nothing.
    pub repetition_penalty: f32,
    /// The same seed, prompt and options give the same answer on the same device.
    pub seed: u64,
    /// Tokens that end the answer besides the model's own; they are not part of it.
    pub stop_ids: Vec<u32>,
    /// Texts that end the answer, for [`TextStream`](crate::TextStream); they are not part of it.
    pub stop: Vec<String>,
    /// Go on past the model's end tokens.
    pub ignore_eos: bool,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_tokens: None,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
            stop_ids: Vec::new(),
            stop: Vec::new(),
            ignore_eos: false,
        }
    }
}

impl GenerateOptions {
    /// What the model's makers suggest; the default where they say nothing.
    pub fn suggested(config: &GenerationConfig) -> Self {
        let plain = Self::default();
        let repetition_penalty = config.repetition_penalty.unwrap_or(plain.repetition_penalty);
        if config.do_sample == Some(false) {
            return Self { repetition_penalty, ..plain };
        }
        // `do_sample` without a temperature means 1.
        let temperature = if config.do_sample == Some(true) { 1.0 } else { plain.temperature };
        Self {
            temperature: config.temperature.unwrap_or(temperature),
            top_k: config.top_k.unwrap_or(plain.top_k),
            top_p: config.top_p.filter(|&p| p > 0.0).unwrap_or(plain.top_p),
            min_p: config.min_p.unwrap_or(plain.min_p),
            repetition_penalty,
            ..plain
        }
    }

    /// Refuses numbers that mean nothing, as every prompt does.
    ///
    /// # Errors
    /// The first such field, with its value.
    pub fn check(&self) -> Result<()> {
        let bad = |name: &str, value: f32, wanted: &str| {
            Err(Error::input(format!("{name} is {value}, expected {wanted}")))
        };
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return bad("temperature", self.temperature, "a number of at least 0");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return bad("top_p", self.top_p, "a number above 0, at most 1");
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return bad("min_p", self.min_p, "a number from 0 to 1");
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            return bad("repetition_penalty", self.repetition_penalty, "a positive number");
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(Error::input("a stop text is empty"));
        }
        Ok(())
    }

    /// What a step must bring back: the device can choose the likeliest token itself.
    pub(super) fn want(&self) -> Want {
        let greedy = self.temperature == 0.0 && self.repetition_penalty == 1.0;
        if greedy { Want::Token } else { Want::Last }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_refused_by_name() {
        let check = |change: fn(&mut GenerateOptions)| {
            let mut options = GenerateOptions::default();
            change(&mut options);
            options.check().unwrap_err().to_string()
        };
        assert!(GenerateOptions::default().check().is_ok());
        assert!(check(|o| o.temperature = f32::NAN).contains("temperature"));
        assert!(check(|o| o.top_p = 0.0).contains("top_p"));
        assert!(check(|o| o.min_p = 1.5).contains("min_p"));
        assert!(check(|o| o.repetition_penalty = 0.0).contains("repetition_penalty"));
        assert!(check(|o| o.stop = vec![String::new()]).contains("stop"));
    }

    #[test]
    fn suggestions_are_taken_unless_the_makers_do_not_sample() {
        let mut config =
            GenerationConfig { temperature: Some(0.6), top_k: Some(20), ..GenerationConfig::default() };
        let options = GenerateOptions::suggested(&config);
        assert_eq!((options.temperature, options.top_k, options.top_p), (0.6, 20, 1.0));
        config.repetition_penalty = Some(1.1);
        config.do_sample = Some(false);
        let penalized = GenerateOptions { repetition_penalty: 1.1, ..GenerateOptions::default() };
        assert_eq!(GenerateOptions::suggested(&config), penalized);
        let sampling = GenerationConfig { do_sample: Some(true), ..GenerationConfig::default() };
        assert_eq!(GenerateOptions::suggested(&sampling).temperature, 1.0);
    }
}
