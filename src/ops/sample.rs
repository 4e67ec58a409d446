//! One token drawn from logits: temperature, top-k, top-p, min-p, inverse distribution function.
//!
//! No sorting is needed to say what is kept, for each filter keeps the values above a threshold:
//! `p = softmax(logits / temperature)`; top-k keeps what is no less than the k-th greatest; top-p keeps,
//! of the renormalised rest, values whose strictly greater ones sum to less than `top_p`; min-p keeps
//! what is no less than `min_p` of the greatest. Values equal to a threshold are kept. The token is the
//! first index at which the running sum of what is left, in index order, exceeds `u` of its total; `u32::MAX` if no logit is a
//! number.

use super::argmax::{self, LIKELIEST, lanes, logits4};
use super::kernel::{declare, must_be};
use crate::array::MLXArray;
use crate::cpu;
use crate::dtype::Dtype;
use crate::formula::NO_INDEX;
use crate::gpu::Caps;
use crate::op::{Arg, Case, CpuKernel, Fill, Kernel, Op, Site, Spec, Stage, Word};
use crate::wgsl::{File, wgsl};
use std::sync::Arc;

static SAMPLE: File = wgsl!("sample.wgsl");
pub(super) static DRAW: File = wgsl!("parts/draw.wgsl");
pub(super) static AMONG_GREATEST: File = wgsl!("parts/among_greatest.wgsl");
pub(super) static THRESHOLD: File = wgsl!("parts/threshold.wgsl");

/// The most that logits are multiplied by: lower temperatures take the greatest all the same.
pub(super) const MOST: f32 = 1e20;

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
        let [1, _] = *logits.dims() else { panic!("sample from {}", logits.spec()) };
        must_be(Dtype::F32, "sample", &[logits, u]);
        assert_eq!(u.dims(), [1], "sample by {}", u.spec());
        if self.temperature <= 0.0 {
            return logits.argmax();
        }
        let scalar = MLXArray::scalar;
        let scaled = logits * (1.0 / self.temperature).min(MOST);
        drawn(&scaled, &MLXArray::scalar_u32(self.top_k as u32), &scalar(self.top_p), &scalar(self.min_p), u)
    }

    fn kernels(&self, site: &Site<'_>) -> Vec<Kernel> {
        if self.temperature <= 0.0 {
            return vec![argmax::stage(&site.inputs[0], site.caps).into()];
        }
        let (file, kind) = logits4(&site.inputs[0]);
        let mut stage = Stage {
            name: "sample",
            files: vec![&SAMPLE, &LIKELIEST, &DRAW, &AMONG_GREATEST, &THRESHOLD, file],
            constants: constants(site.caps),
            reads: vec![Arg::Input(0), Arg::Input(1)],
            writes: vec![Arg::Output],
            params: vec![
                ("n", site.inputs[0].axis(1).into()),
                ("top_k", self.top_k.into()),
                ("scale", (1.0 / self.temperature).min(MOST).into()),
                ("top_p", self.top_p.into()),
                ("min_p", self.min_p.into()),
            ],
            grid: [1, 1, 1],
            ..Stage::default()
        };
        stage.generated =
            declare(&stage, &[("logits", kind), ("u", "array<f32>")], &[("token", "array<u32>")]);
        vec![stage.into()]
    }

    fn cpu(&self, _inputs: &[Spec]) -> Option<CpuKernel> {
        let op = self.clone();
        Some(Box::new(move |x, mut y| {
            y.as_mut_slice()[0] = sample_host(x[0].as_slice(), &op, x[1].as_slice::<f32>()[0]);
        }))
    }
}

/// What a draw's kernel is specialised by: one workgroup, as large as the adapter allows, and its bins.
pub(super) fn constants(caps: &Caps) -> Vec<(&'static str, f64)> {
    let lanes = lanes(caps);
    let (bins, shift) = if lanes > 256 { (4096.0, 13.0) } else { (1024.0, 15.0) };
    vec![("WG", lanes as f64), ("BINS", bins), ("SHIFT", shift)]
}

/// The formula: of `x` `[1, v]`, logits over the temperature, with filters of one element each and `u` `[1]`,
/// the token `[1]`.
pub(super) fn drawn(
    x: &MLXArray,
    top_k: &MLXArray,
    top_p: &MLXArray,
    min_p: &MLXArray,
    u: &MLXArray,
) -> MLXArray {
    let v = x.dims()[1];
    let zero = MLXArray::scalar(0.0);
    let mut p = x.softmax(1);
    let greater = p.reshape(&[v, 1]).less(&p); // [i, j]: p_i < p_j
    let count = greater.astype(Dtype::F32).sum(1).astype(Dtype::U32).reshape(&[1, v]);
    p = p.where_(&(&count.less(top_k) | &top_k.equal(&MLXArray::scalar_u32(0))), &zero);
    let mass = p.where_(&greater, &zero).sum(1).reshape(&[1, v]);
    let all = &MLXArray::scalar(1.0).less_equal(top_p);
    p = p.where_(&(&mass.less(&(&p.sum(1) * top_p)) | all), &zero);
    p = p.where_(&(&p.max(1) * min_p).less_equal(&p), &zero);

    let index = MLXArray::iota(v);
    let upto = index.less_equal(&index.reshape(&[v, 1])); // [i, j]: j <= i
    let running = p.where_(&upto, &zero).sum(1).reshape(&[1, v]);
    let passed = running.less_equal(&(&p.sum(1) * u));
    let count = passed.astype(Dtype::F32).sum(1).astype(Dtype::U32);
    // The rounding of sums must not lead past the last that is kept.
    let last = index.where_(&zero.less(&p), &MLXArray::scalar_u32(0)).max(1);
    let none = MLXArray::scalar_u32(NO_INDEX);
    none.where_(&x.argmax().equal(&none), &count.minimum(&last).reshape(&[1]))
}

/// Greater floats have greater keys; zeros are equal.
fn key(x: f32) -> u32 {
    if x < 0.0 { !x.to_bits() } else { x.abs().to_bits() | 1 << 31 }
}

/// The greatest key such that it and all above weigh at least `wanted`: eleven bits, eleven, ten.
fn threshold(logits: &[f32], wanted: f64, weight: impl Fn(f32) -> f64) -> u32 {
    let (mut found, mut above) = (0u32, 0.0);
    for (shift, bits) in [(21, 11), (10, 11), (0, 10)] {
        let mut bins = [0f64; 1 << 11];
        for &x in logits {
            if u64::from(key(x) ^ found) >> (shift + bits) == 0 {
                bins[(key(x) >> shift) as usize & ((1 << bits) - 1)] += weight(x);
            }
        }
        let mut bin = (1usize << bits) - 1;
        while bin > 0 && above + bins[bin] < wanted {
            above += bins[bin];
            bin -= 1;
        }
        found |= (bin as u32) << shift;
    }
    found
}

/// [`Sample`] in plain Rust, its sums in f64. `u` is in [0, 1); `u32::MAX` if no logit is a number.
pub fn sample_host(logits: &[f32], op: &Sample, u: f32) -> u32 {
    let likeliest = cpu::argmax(logits);
    let greatest = match logits.get(likeliest as usize) {
        Some(&greatest) if op.temperature > 0.0 && greatest.is_finite() => greatest,
        _ => return likeliest,
    };
    let scale = (1.0 / op.temperature).min(MOST);
    let weight = |x: f32| f64::from((x - greatest) * scale).exp();

    let mut least = 0;
    if op.top_k > 0 && op.top_k < logits.len() {
        least = threshold(logits, op.top_k as f64, |_| 1.0);
    }
    if op.top_p < 1.0 {
        let among = |x: f32| if key(x) >= least { weight(x) } else { 0.0 };
        let total: f64 = logits.iter().map(|&x| among(x)).sum();
        least = least.max(threshold(logits, f64::from(op.top_p) * total, among));
    }
    let kept = |x: f32| {
        let p = weight(x);
        if key(x) >= least && p >= f64::from(op.min_p) { p } else { 0.0 }
    };
    let wanted = f64::from(u) * logits.iter().map(|&x| kept(x)).sum::<f64>();
    let (mut running, mut token) = (0.0, 0);
    for (i, &x) in logits.iter().enumerate() {
        let p = kept(x);
        if p > 0.0 {
            running += p;
            token = i as u32;
            if running > wanted {
                break;
            }
        }
    }
    token
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
        case(1000, op(0.5, 0, 1.0, 0.5), 0.77),
        case(1000, op(0.5, 0, 1.0, 0.5), 0.13),
        case(1000, op(0.8, 40, 0.95, 0.05), 0.41),
        case(3, op(1.0, 2, 0.9, 0.0), 0.999_999),
        case(1, op(1.0, 0, 0.9, 0.1), 0.2),
    ]
}
