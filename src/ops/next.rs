//! The end of a decode step: choose each sequence's next token, append it, move on.
//!
//! With this op last, a step leaves behind on the device all that the next step reads, so steps can be
//! submitted one after another without asking the host. What decides a choice lies in arrays and not in the op, so one plan serves all options.

use super::argmax::{LIKELIEST, logits4};
use super::kernel::{declare, fits};
use super::philox::{self, PHILOX};
use super::sample::{self, AMONG_GREATEST, DRAW, MOST, Sample, THRESHOLD, sample_host};
use crate::array::MLXArray;
use crate::dtype::Dtype;
use crate::op::{Arg, Case, CpuKernel, Fill, Kernel, Op, Site, Spec, Stage, Word};
use crate::wgsl::{File, wgsl};
use std::sync::Arc;

static NEXT: File = wgsl!("next.wgsl");

/// `[logits [r, v] f32, knobs [r, 5] f32, counts [r, 4] u32, ids [r] u32, places [r, 2] u32, steps [r] u32,
/// seen [slots, v / 32 rounded up] u32] -> tokens [r] u32`
///
/// - A row of `knobs` is 1 / temperature (0 takes the greatest), top-p, min-p, the repetition penalty and its
///   inverse: see [`Sample`].
/// - A row of `counts` is the sequence's slot, top-k, and the two words of its seed, the low one first.
/// - `seen` has a bit for each token that the slot's sequence contains: their logits are divided by the penalty
///   if positive, else multiplied.
/// - The random number is that of (seed, `steps`).
///
/// Where no logit is a number the token is `u32::MAX`.
///
/// Updates `ids` to the tokens (the vocabulary's last where there is none), adds one to `steps` and to each first number of
/// `places`, and sets the tokens' bits in `seen`; slots differ from row to row.
#[derive(Clone, Debug)]
pub struct Next;

/// The choice of one sequence, as rows of [`Next`]'s `knobs` and `counts`.
pub(crate) fn rows(sample: &Sample, penalty: f32, seed: u64, slot: usize) -> ([f32; 5], [u32; 4]) {
    let scale = if sample.temperature > 0.0 { (1.0 / sample.temperature).min(MOST) } else { 0.0 };
    let top_k = u32::try_from(sample.top_k).unwrap_or(u32::MAX);
    (
        [scale, sample.top_p, sample.min_p, penalty, 1.0 / penalty],
        [slot as u32, top_k, seed as u32, (seed >> 32) as u32],
    )
}

/// Divides positive and multiplies negative logits of tokens in a set of bits, each once however often it
/// occurs (arXiv:1909.05858).
pub(crate) fn penalise(logits: &mut [f32], seen: &[u32], penalty: f32) {
    let inverse = 1.0 / penalty;
    for (logits, &word) in logits.chunks_mut(32).zip(seen) {
        let mut rest = word;
        while rest != 0 {
            if let Some(x) = logits.get_mut(rest.trailing_zeros() as usize) {
                *x *= if *x > 0.0 { inverse } else { penalty };
            }
            rest &= rest - 1;
        }
    }
}

impl Op for Next {
    fn name(&self) -> &'static str {
        "next"
    }

    fn words(&self) -> Vec<Word> {
        Vec::new()
    }

    fn meaning(&self, inputs: &[MLXArray]) -> MLXArray {
        let [logits, knobs, counts, ids, places, steps, seen] = inputs else {
            panic!("next of {} inputs", inputs.len())
        };
        let [r, v] = *logits.dims() else { panic!("next of {}", logits.spec()) };
        let matching = [knobs.dims(), counts.dims(), places.dims()] == [[r, 5], [r, 4], [r, 2]]
            && [ids.dims(), steps.dims()] == [[r], [r]]
            && seen.dims().len() == 2
            && seen.dims()[1] == v.div_ceil(32);
        assert!(matching, "next of {}, {}, {}, {}", logits.spec(), knobs.spec(), places.spec(), seen.spec());

        let word = MLXArray::scalar_u32;
        let index = MLXArray::iota(v);
        let row = |i: usize| {
            let part = |x: &MLXArray, at: usize| x.slice(0, i, 1).slice(1, at, 1).reshape(&[1]);
            let slot = part(counts, 0);
            let words = seen.take(&slot, 0).take(&index.shr(&word(5)), 1); // [1, v]
            let hit = &words.shr(&(&index & &word(31))) & &word(1);
            let x = logits.slice(0, i, 1); // [1, v]
            let penalty = part(knobs, 4).where_(&MLXArray::scalar(0.0).less(&x), &part(knobs, 3));
            let x = (&x * &penalty).where_(&hit, &x);
            let seed = [part(counts, 2), part(counts, 3)];
            let u = philox::formula(seed, &steps.slice(0, i, 1));
            let scale = part(knobs, 0);
            let drawn = sample::drawn(&(&x * &scale), &part(counts, 1), &part(knobs, 1), &part(knobs, 2), &u);
            drawn.where_(&MLXArray::scalar(0.0).less(&scale), &x.argmax()) // [1]
        };
        let mut out = row(0);
        for i in 1..r {
            let place = MLXArray::iota(r).less(&word(i as u32));
            out = out.broadcast_to(&[r]).where_(&place, &row(i).broadcast_to(&[r]));
        }
        out
    }

    fn updates(&self, inputs: &[MLXArray]) -> Vec<(usize, MLXArray)> {
        let (counts, places, steps, seen) = (&inputs[2], &inputs[4], &inputs[5], &inputs[6]);
        let tokens = self.meaning(inputs);
        let word = MLXArray::scalar_u32;
        let first = MLXArray::iota(2).equal(&word(0)); // [1, 0]
        let [slots, words] = *seen.dims() else { panic!("next with {}", seen.spec()) };
        let mut after = seen.clone();
        for i in 0..tokens.size() {
            let (token, slot) = (tokens.slice(0, i, 1), counts.slice(0, i, 1).slice(1, 0, 1));
            let own_slot = MLXArray::iota(slots).reshape(&[slots, 1]).equal(&slot);
            let own_word = MLXArray::iota(words).equal(&token.shr(&word(5)));
            let bit = word(1).broadcast_to(&[1]).shl(&(&token & &word(31)));
            after = (&after | &bit).where_(&(&own_slot & &own_word), &after);
        }
        let ids = tokens.minimum(&word(inputs[0].dims()[1] as u32 - 1));
        vec![(3, ids), (4, places + &first), (5, steps + &word(1)), (6, after)]
    }

    fn kernels(&self, site: &Site<'_>) -> Vec<Kernel> {
        let logits = &site.inputs[0];
        let (file, kind) = logits4(logits);
        let rows = logits.axis(2);
        if site.caps.storage_buffers < 8 || !fits([rows, 1, 1]) {
            return Vec::new();
        }
        let mut stage = Stage {
            name: "next",
            files: vec![&NEXT, &LIKELIEST, &DRAW, &AMONG_GREATEST, &THRESHOLD, &PHILOX, file],
            constants: sample::constants(site.caps),
            reads: vec![Arg::Input(0), Arg::Input(1), Arg::Input(2)],
            writes: vec![Arg::Output, Arg::Input(3), Arg::Input(4), Arg::Input(5), Arg::Input(6)],
            params: vec![("n", logits.axis(1).into()), ("words", site.inputs[6].axis(1).into())],
            grid: [rows as u32, 1, 1],
            ..Stage::default()
        };
        let words = |name| (name, "array<u32>");
        stage.generated = declare(
            &stage,
            &[("logits", kind), ("knobs", "array<f32>"), words("counts")],
            &["token", "ids", "places", "steps", "seen"].map(words),
        );
        vec![stage.into()]
    }

    /// The choice alone, for tests: nothing is updated.
    fn cpu(&self, inputs: &[Spec]) -> Option<CpuKernel> {
        let (v, words) = (inputs[0].axis(1), inputs[6].axis(1));
        Some(Box::new(move |x, mut y| {
            let (logits, knobs) = (x[0].as_slice::<f32>(), x[1].as_slice::<f32>());
            let (counts, steps, seen) =
                (x[2].as_slice::<u32>(), x[5].as_slice::<u32>(), x[6].as_slice::<u32>());
            for (i, y) in y.as_mut_slice::<u32>().iter_mut().enumerate() {
                let [scale, top_p, min_p, penalty, _]: [f32; 5] =
                    knobs[5 * i..][..5].try_into().unwrap_or_default();
                let [slot, top_k, low, high]: [u32; 4] = counts[4 * i..][..4].try_into().unwrap_or_default();
                let mut row = logits[i * v..][..v].to_vec();
                penalise(&mut row, &seen[slot as usize * words..][..words], penalty);
                let temperature = if scale > 0.0 { 1.0 / scale } else { 0.0 };
                let op = Sample { temperature, top_k: top_k as usize, top_p, min_p };
                let seed = u64::from(low) | u64::from(high) << 32;
                *y = sample_host(&row, &op, philox::uniform(seed, steps[i]));
            }
        }))
    }
}

/// Sizes worth testing.
pub(super) fn cases() -> Vec<Case> {
    let sample = |temperature, top_k, top_p, min_p| Sample { temperature, top_k, top_p, min_p };
    let case = |v: usize, choices: &[(Sample, f32)]| {
        let r = choices.len();
        let rows: Vec<_> = choices
            .iter()
            .enumerate()
            .map(|(i, (sample, penalty))| rows(sample, *penalty, 0x1234_5678_9abc + i as u64, r - i))
            .collect();
        let words = v.div_ceil(32);
        Case {
            op: Arc::new(Next),
            inputs: vec![
                Fill::Normal(Spec::new(&[r, v], Dtype::F32)),
                Fill::F32(vec![r, 5], rows.iter().flat_map(|row| row.0).collect()),
                Fill::U32(vec![r, 4], rows.iter().flat_map(|row| row.1).collect()),
                Fill::Below(Spec::new(&[r], Dtype::U32), v as u32),
                Fill::Below(Spec::new(&[r, 2], Dtype::U32), 1000),
                Fill::Below(Spec::new(&[r], Dtype::U32), 1000),
                Fill::Bits(Spec::new(&[r + 1, words], Dtype::U32)),
            ],
            reduction: 1,
        }
    };
    let greedy = || (sample(0.0, 0, 1.0, 0.0), 1.0);
    vec![
        case(300, &[greedy()]),
        case(301, &[greedy(), (sample(0.8, 40, 0.9, 0.02), 1.3), (sample(0.0, 0, 1.0, 0.0), 1.7)]),
        case(1000, &[(sample(1.2, 0, 0.8, 0.0), 1.0), (sample(0.7, 300, 1.0, 0.0), 1.1)]),
        case(33, &[(sample(1.0, 0, 1.0, 0.0), 1.0)]),
        case(1, &[(sample(0.5, 0, 0.5, 0.5), 2.0)]),
    ]
}

#[cfg(test)]
#[path = "next_tests.rs"]
mod tests;
