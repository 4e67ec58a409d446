//! What decides a sequence's next token: options, the set of tokens seen, and how many were chosen.

use super::options::GenerateOptions;
use crate::ops::{Sample, penalise, sample_host, uniform};

/// The choice of tokens of one answer. The device's [`Next`](crate::ops::Next) is the same function.
#[derive(Clone, Debug)]
pub(super) struct Sampler {
    pub(super) sample: Sample,
    pub(super) penalty: f32,
    pub(super) seed: u64,
    /// Tokens chosen so far: each has its own random number.
    pub(super) step: u32,
    /// One bit for each token of the vocabulary that the sequence contains.
    seen: Vec<u32>,
}

impl Sampler {
    pub(super) fn new(vocab: usize) -> Self {
        let sample = Sample { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0 };
        Self { sample, penalty: 1.0, seed: 0, step: 0, seen: vec![0; vocab.div_ceil(32)] }
    }

    /// Begins an answer to `prompt`.
    pub(super) fn begin(&mut self, options: &GenerateOptions, prompt: &[u32]) {
        self.sample = Sample {
            temperature: options.temperature,
            top_k: options.top_k,
            top_p: options.top_p,
            min_p: options.min_p,
        };
        (self.penalty, self.seed, self.step) = (options.repetition_penalty, options.seed, 0);
        self.seen.fill(0);
        prompt.iter().for_each(|&id| self.see(id));
    }

    fn see(&mut self, id: u32) {
        if let Some(word) = self.seen.get_mut(id as usize / 32) {
            *word |= 1 << (id % 32);
        }
    }

    /// The next token, from logits on the host.
    pub(super) fn choose(&self, logits: &mut [f32]) -> u32 {
        if self.penalty != 1.0 {
            penalise(logits, &self.seen, self.penalty);
        }
        sample_host(logits, &self.sample, uniform(self.seed, self.step))
    }

    /// Notes the token that was chosen, here or on the device.
    pub(super) fn chose(&mut self, token: u32) {
        self.see(token);
        self.step = self.step.wrapping_add(1);
    }

    /// The set of tokens seen, 32 to a word.
    pub(super) fn seen(&self) -> &[u32] {
        &self.seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(penalty: f32, prompt: &[u32]) -> Sampler {
        let mut sampler = Sampler::new(40);
        let options = GenerateOptions { repetition_penalty: penalty, ..GenerateOptions::default() };
        sampler.begin(&options, prompt);
        sampler
    }

    #[test]
    fn greedy_takes_the_penalised_greatest() {
        let mut sampler = sampler(4.0, &[0]);
        assert_eq!(sampler.choose(&mut [3.0, 1.0, 2.0]), 2);
        sampler.chose(2);
        assert_eq!((sampler.choose(&mut [3.0, 1.0, 2.0]), sampler.step), (1, 1));
    }

    #[test]
    fn a_token_is_seen_once_and_a_new_answer_forgets() {
        let mut sampler = sampler(2.0, &[0, 39, 0]);
        assert_eq!(sampler.seen(), [1, 128]);
        sampler.begin(&GenerateOptions::default(), &[1]);
        assert_eq!((sampler.seen(), sampler.penalty), (&[2, 0][..], 1.0));
    }
}
