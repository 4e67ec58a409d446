//! The device's choice is the host's, but where rounding decides.

use super::*;
use crate::array::Device;
use crate::gpu::{Gpu, or_skip};
use proptest::prelude::*;

fn on_device(logits: &[f32], sample: &Sample, penalty: f32, (seed, step): (u64, u32), seen: &[u32]) -> u32 {
    let leaf = |bytes: &[u8], dims: &[usize], dtype| {
        let array = MLXArray::mutable(dims, dtype, Device::GPU).unwrap();
        array.overwrite(bytes).unwrap();
        array
    };
    let (knobs, counts) = rows(sample, penalty, seed, 0);
    let word = |data: &[u32], dims: &[usize]| leaf(bytemuck::cast_slice(data), dims, Dtype::U32);
    let float = |data: &[f32], dims: &[usize]| leaf(bytemuck::cast_slice(data), dims, Dtype::F32);
    let inputs = [
        float(logits, &[1, logits.len()]),
        float(&knobs, &[1, 5]),
        word(&counts, &[1, 4]),
        word(&[0], &[1]),
        word(&[7, 0], &[1, 2]),
        word(&[step], &[1]),
        word(seen, &[1, seen.len()]),
    ];
    let token = MLXArray::apply(Next, &inputs.iter().collect::<Vec<_>>());
    crate::plan::eval(&[&token]).unwrap();
    let read = |x: &MLXArray| {
        let mut words = vec![0u32; x.size()];
        x.buffer().unwrap().read(bytemuck::cast_slice_mut(&mut words)).unwrap();
        words
    };
    let token = read(&token)[0];
    let mut after = seen.to_vec();
    after[token as usize / 32] |= 1 << (token % 32);
    let places = read(&inputs[4]);
    assert_eq!((read(&inputs[3]), places, read(&inputs[5])), (vec![token], vec![8, 0], vec![step + 1]));
    assert_eq!(read(&inputs[6]), after);
    token
}

/// The host's choice if numbers a little off choose alike.
fn on_host(logits: &[f32], sample: &Sample, u: f32) -> Option<u32> {
    let token = sample_host(logits, sample, u);
    let near = |by: f32| {
        let Sample { temperature, top_k, top_p, min_p } = *sample;
        let near_p = if top_p < 1.0 { top_p * (1.0 + by) } else { top_p };
        let changed = [
            Sample { temperature: temperature * (1.0 + 0.1 * by), top_k, top_p, min_p },
            Sample { temperature, top_k, top_p: near_p.min(1.0), min_p },
            Sample { temperature, top_k, top_p, min_p: (min_p * (1.0 + by)).min(1.0) },
        ];
        changed.iter().all(|sample| sample_host(logits, sample, u) == token)
            && sample_host(logits, sample, (u + by).clamp(0.0, 0.999_999_9)) == token
    };
    (sample.temperature == 0.0 || [-2e-5, 2e-5].into_iter().all(near)).then_some(token)
}

fn seen_of(v: usize, random: u64) -> Vec<u32> {
    (0..v.div_ceil(32)).map(|i| (random >> (i % 33)) as u32).collect()
}

#[test]
fn the_device_chooses_as_the_host_does() {
    if or_skip(Gpu::shared()).is_none() {
        return;
    }
    let compared = std::cell::Cell::new(0);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(120));
    let sizes = prop_oneof![1usize..70, 70usize..3000, Just(4096usize), Just(5003), Just(9001), Just(40_001)];
    let options = (
        prop_oneof![Just(0f32), 0.1f32..2.0],
        prop_oneof![Just(0usize), 1usize..60, 1000usize..4000],
        prop_oneof![Just(1f32), 0.05f32..0.99],
        prop_oneof![Just(0f32), 0.001f32..0.3],
        prop_oneof![Just(1f32), 0.7f32..1.8],
    );
    // How wide logits spread, and on how fine a grid: coarse ones are full of ties.
    let shape = (0.05f32..9.0, prop_oneof![Just(0f32), Just(0.5), Just(2.0), Just(100.0)]);
    let cases = (sizes, options, shape, any::<u64>(), any::<u32>());
    let outcome =
        runner.run(&cases, |(v, (temperature, top_k, top_p, min_p, penalty), (wide, grid), seed, step)| {
            let step = step & 0xffff;
            let logit = |i: usize| {
                let sum: f32 = (0..4).map(|j| philox::uniform(seed, (i * 4 + j) as u32)).sum();
                let x = (sum - 2.0) * wide * 1.7;
                if grid > 0.0 { (x / grid).round() * grid } else { x }
            };
            let logits: Vec<f32> = (0..v).map(logit).collect();
            let sample = Sample { temperature, top_k, top_p, min_p };
            let seen = seen_of(v, seed);
            let mut lowered = logits.clone();
            if penalty != 1.0 {
                penalise(&mut lowered, &seen, penalty);
            }
            if let Some(expected) = on_host(&lowered, &sample, philox::uniform(seed, step)) {
                compared.set(compared.get() + 1);
                let got = on_device(&logits, &sample, penalty, (seed, step), &seen);
                prop_assert_eq!(got, expected, "{:?} of {}", sample, v);
            }
            Ok(())
        });
    outcome.unwrap();
    assert!(compared.get() > 80, "only {} cases were clear", compared.get());
}

#[test]
fn filters_of_equal_and_crowded_logits() {
    if Gpu::shared().is_err() {
        return;
    }
    // All alike; and more near the threshold than are listed at once.
    let crowded: Vec<f32> = (0..9000).map(|i| ((i * 7919) % 9001) as f32 * 1e-6).collect();
    for logits in [vec![0.25; 5000], vec![-3.0; 4097], crowded] {
        for (top_k, top_p) in [(50, 1.0), (0, 0.5), (3000, 0.3), (4000, 1.0)] {
            let sample = Sample { temperature: 0.7, top_k, top_p, min_p: 0.0 };
            let seen = vec![0; logits.len().div_ceil(32)];
            for step in 0..4 {
                let Some(expected) = on_host(&logits, &sample, philox::uniform(11, step)) else { continue };
                assert_eq!(on_device(&logits, &sample, 1.0, (11, step), &seen), expected, "{sample:?}");
            }
        }
    }
}

#[test]
fn a_token_that_is_forced_is_chosen() {
    let logits = [1.0, f32::INFINITY, 3.0];
    for temperature in [0.0, 1.0] {
        let sample = Sample { temperature, top_k: 0, top_p: 1.0, min_p: 0.0 };
        assert_eq!(sample_host(&logits, &sample, 0.5), 1);
        if Gpu::shared().is_ok() {
            assert_eq!(on_device(&logits, &sample, 1.0, (5, 0), &[0]), 1, "{sample:?}");
        }
    }
}
