//! Several answers at a time: what a server gets out of one pass over the weights.

use super::{BenchOptions, BenchRow, answer, tokens};
use crate::error::Result;
use crate::generate::{Batch, BatchItem, GenerateOptions};
use crate::kv_quantization::KvCache;
use crate::models::Model;
use std::time::Instant;

/// Sequences that are generated together, again and again.
pub(super) struct Sequences {
    model: Model,
    batch: Batch,
    choice: GenerateOptions,
    count: usize,
    runs: usize,
}

impl Sequences {
    pub(super) fn new(model: &Model, options: &BenchOptions, count: usize) -> Result<Self> {
        let batch = Batch::with_kinds(model, count, &options.kv)?;
        Ok(Self { model: model.clone(), batch, choice: options.choice.clone(), count, runs: 0 })
    }

    /// Hands the generation of `generated` tokens for each sequence, after `depth` others, to `around`; the seconds
    /// that it took.
    pub(super) fn run(
        &mut self,
        depth: usize,
        generated: usize,
        around: impl FnOnce(&mut dyn FnMut() -> Result<()>) -> Result<()>,
    ) -> Result<f64> {
        self.runs += 1;
        // The first token of an answer is the prompt's.
        let options = answer(&self.choice, generated + 1);
        for slot in 0..self.count {
            let prompt = tokens(&self.model, self.runs * self.count + slot, depth, 1);
            self.batch.prompt(slot, &prompt, options.clone())?;
        }
        self.batch.step()?;
        let begin = Instant::now();
        let mut handed = 0;
        around(&mut || {
            while self.batch.is_active() {
                let items = self.batch.step()?;
                handed += items.iter().filter(|(_, item)| matches!(item, BatchItem::Token(_))).count();
            }
            Ok(())
        })?;
        debug_assert_eq!(handed, self.count * generated);
        Ok(begin.elapsed().as_secs_f64())
    }

    pub(super) fn cache(&self) -> &KvCache {
        self.batch.cache()
    }
}

/// `generated` tokens for each of `batch` sequences, after `depth` others in each.
pub(super) fn row(
    model: &Model,
    options: &BenchOptions,
    (depth, generated, batch): (usize, usize, usize),
) -> Result<BenchRow> {
    let mut sequences = Sequences::new(model, options, batch)?;
    let mut run = || sequences.run(depth, generated, |work| work());
    run()?;
    let seconds = (0..options.repetitions).map(|_| run()).collect::<Result<_>>()?;
    Ok(BenchRow { prompt: 0, generated, depth, batch, seconds, gpu_seconds: None })
}
