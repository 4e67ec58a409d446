//! The next token from logits on the host.

use super::options::GenerateOptions;
use super::rng::uniform;
use crate::ops::{Sample, sample_host};

/// Penalises what the context holds already, then samples; `step` counts the tokens of this answer.
pub(super) fn sample(logits: &mut [f32], context: &[u32], options: &GenerateOptions, step: u64) -> u32 {
    if options.repetition_penalty != 1.0 {
        penalise(logits, context, options.repetition_penalty);
    }
    let sample = Sample {
        temperature: options.temperature,
        top_k: options.top_k,
        top_p: options.top_p,
        min_p: options.min_p,
    };
    sample_host(logits, &sample, uniform(options.seed, step))
}

/// Each token of the context once, however often it occurs (arXiv:1909.05858).
fn penalise(logits: &mut [f32], context: &[u32], penalty: f32) {
    let mut seen = vec![false; logits.len()];
    for &id in context {
        let i = id as usize;
        if i < logits.len() && !std::mem::replace(&mut seen[i], true) {
            logits[i] *= if logits[i] > 0.0 { 1.0 / penalty } else { penalty };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_penalty_counts_once_and_always_lowers() {
        let mut logits = [2.0, -2.0, 2.0];
        penalise(&mut logits, &[0, 1, 0, 9], 2.0);
        assert_eq!(logits, [1.0, -4.0, 2.0]);
    }

    #[test]
    fn greedy_takes_the_penalised_greatest() {
        let options = GenerateOptions { repetition_penalty: 4.0, ..GenerateOptions::default() };
        assert_eq!(sample(&mut [3.0, 1.0, 2.0], &[0], &options, 0), 2);
    }
}
