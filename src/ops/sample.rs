//! One token drawn from logits: temperature, top-k, top-p, min-p, inverse distribution function.
//!
//! No sorting is needed to say what is kept, for each filter keeps the values above a threshold:
//! `p = softmax(logits / temperature)`; top-k keeps what is no less than the k-th greatest; top-p keeps,
//! of the renormalised rest, values whose strictly greater ones sum to less than `top_p`; min-p keeps
//! what is no less than `min_p` of the greatest. Values equal to a threshold are kept. The token is the
//! first index at which the running sum of what is left, in index order, exceeds `u` of its total.

use super::native;
use crate::array::MLXArray;
use crate::cpu;
use crate::dtype::Dtype;
use crate::op::{Case, CpuKernel, Fill, Op, Spec, Word};
use std::cell::RefCell;
use std::sync::Arc;

/// `[logits [1, v] f32, u [1] f32 in [0, 1)] -> [1] u32`
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Divides the logits; 0 takes the greatest.
    pub temperature: f32,
    /// How many of the greatest are kept; 0, all.
    pub top_k: usize,
    /// Probability mass that is kept; 1, all.
    pub top_p: f32,
    /// Least probability that is kept, relative to the greatest; 0, any.
    pub min_p: f32,
}

impl Op for Sample {
    fn name(&self) -> &'static str {
        "sample"
    }

    fn words(&self) -> Vec<Word> {
        vec![self.temperature.into(), self.top_k.into(), self.top_p.into(), self.min_p.into()]
    }

    fn meaning(&self, inputs: &[MLXArray]) -> MLXArray {
        let (logits, u) = (&inputs[0], &inputs[1]);
        let [1, v] = *logits.dims() else { panic!("sample from {}", logits.spec()) };
        if self.temperature <= 0.0 {
            return logits.argmax();
        }
        let zero = MLXArray::scalar(0.0);
        let mut p = (logits * (1.0 / self.temperature)).softmax(1);
        if self.top_k > 0 && self.top_k < v {
            let least = p.topk(self.top_k).slice(1, self.top_k - 1, 1);
            p = p.where_(&least.less_equal(&p), &zero);
        }
        if self.top_p < 1.0 {
            let greater = p.reshape(&[v, 1]).less(&p); // [i, j]: p_i < p_j
            let mass = p.where_(&greater, &zero).sum(1).reshape(&[1, v]);
            p = p.where_(&mass.less(&(&p.sum(1) * self.top_p)), &zero);
        }
        p = p.where_(&(&p.max(1) * self.min_p).less_equal(&p), &zero);

        let index = MLXArray::iota(v);
        let upto = index.less_equal(&index.reshape(&[v, 1])); // [i, j]: j <= i
        let running = p.where_(&upto, &zero).sum(1).reshape(&[1, v]);
        let passed = running.less_equal(&(&p.sum(1) * u));
        let count = passed.astype(Dtype::F32).sum(1).astype(Dtype::U32);
        // The rounding of sums must not lead past the last that is kept.
        let last = index.where_(&zero.less(&p), &MLXArray::scalar_u32(0)).max(1);
        count.minimum(&last).reshape(&[1])
    }

    fn cpu(&self, specs: &[Spec]) -> Option<CpuKernel> {
        native::sample(self, specs)
    }
}

/// Sizes worth testing.
pub(super) fn cases() -> Vec<Case> {
    let case = |v: usize, op: Sample, u: f32| Case {
        op: Arc::new(op),
        inputs: vec![Fill::Normal(Spec::new(&[1, v], Dtype::F32)), Fill::F32(vec![1], vec![u])],
        reduction: 1,
    };
    let op = |temperature, top_k, top_p, min_p| Sample { temperature, top_k, top_p, min_p };
    vec![
        case(300, op(0.0, 0, 1.0, 0.0), 0.5),
        case(300, op(1.0, 0, 1.0, 0.0), 0.3),
        case(301, op(0.7, 5, 1.0, 0.0), 0.9),
        case(257, op(1.0, 0, 0.5, 0.0), 0.0),
        case(1000, op(1.5, 0, 1.0, 0.2), 0.77),
        case(1000, op(0.8, 40, 0.95, 0.05), 0.41),
        case(3, op(1.0, 2, 0.9, 0.0), 0.999_999),
        case(1, op(1.0, 0, 0.9, 0.1), 0.2),
    ]
}

thread_local! {
    /// Probabilities, and a copy to sort: kept, so that a token costs no allocation.
    static SCRATCH: RefCell<(Vec<f64>, Vec<f64>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

/// The same choice on the host, with sums in f64; 0 of no logits.
pub fn sample_host(logits: &[f32], params: &Sample, u: f32) -> u32 {
    let greatest = cpu::argmax(logits);
    if params.temperature <= 0.0 || logits.is_empty() {
        return greatest;
    }
    let shift = f64::from(logits[greatest as usize]);
    let scale = 1.0 / f64::from(params.temperature);
    SCRATCH.with_borrow_mut(|(p, sorted)| {
        p.clear();
        p.extend(logits.iter().map(|&x| ((f64::from(x) - shift) * scale).exp()));
        let keep = |p: &mut [f64], least: f64| p.iter_mut().filter(|x| **x < least).for_each(|x| *x = 0.0);
        if params.top_k > 0 && params.top_k < p.len() {
            sorted.clear();
            sorted.extend_from_slice(p);
            let (_, least, _) = sorted.select_nth_unstable_by(params.top_k - 1, |a, b| b.total_cmp(a));
            keep(p, *least);
        }
        if params.top_p < 1.0 {
            sorted.clear();
            sorted.extend(p.iter().filter(|&&x| x > 0.0));
            sorted.sort_unstable_by(|a, b| b.total_cmp(a));
            let mass = f64::from(params.top_p) * sorted.iter().sum::<f64>();
            let mut sum = 0.0;
            let last = sorted.iter().find(|&&x| {
                sum += x;
                sum >= mass
            });
            keep(p, last.copied().unwrap_or(0.0));
        }
        // The greatest is exp(0).
        keep(p, f64::from(params.min_p));
        let target = f64::from(u) * p.iter().sum::<f64>();
        let mut sum = 0.0;
        let chosen = p.iter().position(|&x| {
            sum += x;
            x > 0.0 && sum > target
        });
        chosen.map_or(greatest, |i| i as u32)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(params: &Sample) -> Vec<u32> {
        let logits = [1.0, 3.0, 2.0, 3.0, -1.0];
        let mut seen: Vec<u32> = (0..1000).map(|i| sample_host(&logits, params, i as f32 / 1000.0)).collect();
        seen.sort_unstable();
        seen.dedup();
        seen
    }

    #[test]
    fn filters_keep_what_they_say() {
        let all = Sample { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0 };
        assert_eq!(draw(&all), [0, 1, 2, 3, 4]);
        assert_eq!(draw(&Sample { temperature: 0.0, ..all.clone() }), [1]);
        assert_eq!(draw(&Sample { top_k: 1, ..all.clone() }), [1, 3], "equals stay together");
        assert_eq!(draw(&Sample { top_k: 3, ..all.clone() }), [1, 2, 3]);
        assert_eq!(draw(&Sample { top_p: 0.9, ..all.clone() }), [1, 2, 3]);
        assert_eq!(draw(&Sample { top_p: 0.3, ..all.clone() }), [1, 3]);
        assert_eq!(draw(&Sample { min_p: 0.2, ..all.clone() }), [1, 2, 3]);
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let params = Sample { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0 };
        let hits = (0..10_000).filter(|&i| sample_host(&[0.0, 1.0], &params, i as f32 / 1e4) == 1).count();
        assert!((hits as f64 / 1e4 - 0.731_06).abs() < 2e-4, "{hits}");
    }
}
