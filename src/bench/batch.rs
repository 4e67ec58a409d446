//! Several answers at a time: what a server gets out of one pass over the weights.

use super::{BenchRow, tokens};
use crate::error::Result;
use crate::generate::{Batch, BatchItem, GenerateOptions};
use crate::kv_quantization::KvKind;
use crate::models::Model;
use std::time::Instant;

/// `generated` tokens for each of `batch` sequences, after `depth` others in each.
pub(super) fn row(
    model: &Model,
    kv: Option<KvKind>,
    (depth, generated, batch): (usize, usize, usize),
    repetitions: usize,
) -> Result<BenchRow> {
    let mut sequences = Batch::new(model, batch, kv)?;
    // The first token of an answer is the prompt's.
    let options =
        GenerateOptions { max_tokens: Some(generated + 1), ignore_eos: true, ..GenerateOptions::default() };
    let mut run = |run: usize| -> Result<f64> {
        for slot in 0..batch {
            sequences.prompt(slot, &tokens(model, run * batch + slot, depth, 1), options.clone())?;
        }
        sequences.step()?;
        let begin = Instant::now();
        let mut handed = 0;
        while sequences.is_active() {
            let items = sequences.step()?;
            handed += items.iter().filter(|(_, item)| matches!(item, BatchItem::Token(_))).count();
        }
        debug_assert_eq!(handed, batch * generated);
        Ok(begin.elapsed().as_secs_f64())
    };
    run(1)?;
    let seconds = (0..repetitions).map(|i| run(i + 2)).collect::<Result<_>>()?;
    Ok(BenchRow { prompt: 0, generated, depth, batch, seconds, gpu_seconds: None })
}
