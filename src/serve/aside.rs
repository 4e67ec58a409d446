//! [`Aside`]: work on whole texts, one after another and not in the way of answers' threads.

use super::engine::{Embeddings, Pooling, Refusal, Scores};
use super::hook::probabilities;
use crate::error::{Error, Result};
use crate::generate::{each_logits, hidden_states};
use crate::kv_quantization::KvKind;
use crate::models::Model;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::{Mutex, oneshot};

/// What hidden states and probabilities of texts come from.
#[derive(Clone, Debug)]
pub(super) struct Aside {
    model: Model,
    kinds: Vec<KvKind>,
    turn: Arc<Mutex<()>>,
}

impl Aside {
    pub(super) fn new(model: &Model, kinds: Vec<KvKind>) -> Self {
        Self { model: model.clone(), kinds, turn: Arc::default() }
    }

    pub(super) fn embed(&self, inputs: Vec<Vec<u32>>, pooling: Pooling) -> Embeddings {
        self.each(inputs, move |model, ids, kinds| {
            Ok(pool(&hidden_states(model, ids, kinds)?, ids.len(), pooling))
        })
    }

    pub(super) fn score(&self, inputs: Vec<Vec<u32>>, top: usize) -> Scores {
        self.each(inputs, move |model, ids, kinds| {
            let mut scores = Vec::with_capacity(ids.len());
            each_logits(model, ids, kinds, &mut |at, row| {
                scores.extend(ids.get(at + 1).map(|&next| probabilities(row, next, top)));
            })?;
            Ok(scores)
        })
    }

    /// Dropping the future ends the work before its next text.
    fn each<T: Send + 'static>(
        &self,
        inputs: Vec<Vec<u32>>,
        one: impl Fn(&Model, &[u32], &[KvKind]) -> Result<T> + Send + 'static,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<T>, Refusal>> + Send>> {
        let Self { model, kinds, turn } = self.clone();
        Box::pin(async move {
            let turn = turn.lock_owned().await;
            let (done, outcome) = oneshot::channel();
            tokio::task::spawn_blocking(move || {
                let _turn = turn;
                let wanted = |ids: &Vec<u32>| match done.is_closed() {
                    true => Err(Error::cancelled("nobody wants the result any more")),
                    false => one(&model, ids, &kinds),
                };
                let all: Result<Vec<T>> = inputs.iter().map(wanted).collect();
                let _ = done.send(all);
            });
            let failed = |_| Refusal::Failed(Error::device("the work on a text ended early"));
            outcome.await.map_err(failed)?.map_err(Refusal::Failed)
        })
    }
}

/// One vector of length 1 from hidden states `[n, width]`.
fn pool(states: &[f32], n: usize, pooling: Pooling) -> Vec<f32> {
    let width = states.len() / n.max(1);
    let mut vector = match pooling {
        Pooling::Last => states[states.len() - width..].to_vec(),
        Pooling::Mean => {
            let mean = |i: usize| states.iter().skip(i).step_by(width).sum::<f32>() / n as f32;
            (0..width).map(mean).collect()
        }
    };
    let norm = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt().max(1e-12) as f32;
    vector.iter_mut().for_each(|x| *x /= norm);
    vector
}
