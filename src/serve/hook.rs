//! What a request wants of logits beyond [`GenerateOptions`](crate::GenerateOptions), on the host: masks of a
//! grammar, biases, penalties, and the record of probabilities.

use super::engine::{Logprobs, Request};
use crate::error::Result;
use crate::generate::LogitsHook;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// Probabilities of chosen tokens, in order, for whoever hands the tokens out.
#[derive(Clone, Debug, Default)]
pub(super) struct Record(Arc<Mutex<VecDeque<Logprobs>>>);

impl Record {
    fn push(&self, logprobs: Logprobs) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(logprobs);
    }

    pub(super) fn pop(&self) -> Option<Logprobs> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

/// Changes logits as a request wants it.
pub(super) struct Adjust {
    bias: Vec<(u32, f32)>,
    presence: f32,
    frequency: f32,
    /// How often the answer contains a token.
    counts: HashMap<u32, u32>,
    logprobs: Option<(usize, Record)>,
    /// The model's own logits, for their probabilities.
    raw: Vec<f32>,
    inner: Option<Box<dyn LogitsHook>>,
}

impl Adjust {
    /// The hook of a request, if it needs one, and where probabilities will be.
    pub(super) fn of(request: &mut Request) -> (Option<Box<dyn LogitsHook>>, Option<Record>) {
        let plain = request.logit_bias.is_empty()
            && request.presence_penalty == 0.0
            && request.frequency_penalty == 0.0
            && request.logprobs.is_none();
        let inner = request.hook.take();
        if plain {
            return (inner, None);
        }
        let record = Record::default();
        let adjust = Self {
            bias: std::mem::take(&mut request.logit_bias),
            presence: request.presence_penalty,
            frequency: request.frequency_penalty,
            counts: HashMap::new(),
            logprobs: request.logprobs.map(|n| (n, record.clone())),
            raw: Vec::new(),
            inner,
        };
        (Some(Box::new(adjust)), Some(record))
    }
}

impl LogitsHook for Adjust {
    fn adjust(&mut self, prompt: &[u32], answer: &[u32], logits: &mut [f32]) -> Result<()> {
        if self.logprobs.is_some() {
            self.raw.clear();
            self.raw.extend_from_slice(logits);
        }
        if let Some(inner) = &mut self.inner {
            inner.adjust(prompt, answer, logits)?;
        }
        for &(id, bias) in &self.bias {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit += bias;
            }
        }
        if self.presence != 0.0 || self.frequency != 0.0 {
            for (&id, &count) in &self.counts {
                if let Some(logit) = logits.get_mut(id as usize) {
                    *logit -= self.presence + self.frequency * count as f32;
                }
            }
        }
        Ok(())
    }

    fn took(&mut self, token: u32) -> Result<bool> {
        *self.counts.entry(token).or_default() += 1;
        if let Some((n, record)) = &self.logprobs {
            record.push(probabilities(&self.raw, token, *n));
        }
        self.inner.as_mut().map_or(Ok(false), |inner| inner.took(token))
    }
}

/// Natural logarithms of the softmax of `logits`, of one token and of the `n` likeliest.
pub(super) fn probabilities(logits: &[f32], token: u32, n: usize) -> Logprobs {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(x - most).exp()).sum();
    let norm = most + sum.ln() as f32;
    let mut top: Vec<(u32, f32)> = Vec::with_capacity(n + 1);
    if n > 0 {
        for (id, &logit) in logits.iter().enumerate() {
            if top.len() < n || top.last().is_some_and(|&(_, least)| logit > least) {
                let at = top.partition_point(|&(_, other)| other >= logit);
                top.insert(at, (id as u32, logit));
                top.truncate(n);
            }
        }
    }
    top.iter_mut().for_each(|(_, logit)| *logit -= norm);
    let chosen = logits.get(token as usize).map_or(f32::NEG_INFINITY, |logit| logit - norm);
    Logprobs { chosen, top }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_of_the_models_own_logits() {
        let got = probabilities(&[0.0, 1.0, 3.0, 2.0], 1, 2);
        let norm = (1.0f32 + 1f32.exp() + 2f32.exp() + 3f32.exp()).ln();
        assert!((got.chosen - (1.0 - norm)).abs() < 1e-6);
        assert_eq!(got.top.iter().map(|t| t.0).collect::<Vec<_>>(), [2, 3]);
        assert!((got.top[0].1 - (3.0 - norm)).abs() < 1e-6);
    }

    #[test]
    fn penalties_grow_with_what_was_said_and_biases_add() {
        let mut request = Request {
            logit_bias: vec![(2, -100.0), (9, 1.0)],
            presence_penalty: 0.5,
            frequency_penalty: 0.25,
            ..Request::default()
        };
        let (hook, record) = Adjust::of(&mut request);
        let mut hook = hook.unwrap();
        assert!(!hook.took(1).unwrap());
        assert!(!hook.took(1).unwrap());
        let mut logits = [1.0, 1.0, 1.0];
        hook.adjust(&[], &[1, 1], &mut logits).unwrap();
        assert_eq!(logits, [1.0, 0.0, -99.0]);
        assert!(record.unwrap().pop().is_none());
        assert!(Adjust::of(&mut Request::default()).0.is_none());
    }
}
