//! A cache changes nothing: however a sequence is cut, what follows is the same.

use super::runner::{CHUNK, Runner, Want};
use super::{GenerateOptions, Generator, logits};
use crate::array::Device;
use crate::kv_quantization::KvKind;
use crate::models::{LoadOptions, Model};
use std::ops::ControlFlow;

fn model(name: &str, device: Device) -> Model {
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let options = LoadOptions { device: Some(device), ..LoadOptions::default() };
    Model::load(golden.join(name).join("model"), options).unwrap()
}

/// Devices, the cache each uses, and by how much kernels of different shapes may differ there.
fn routes() -> Vec<(Device, KvKind, f64)> {
    let mut routes = vec![(Device::CPU, KvKind::F32, 1e-5)];
    if Device::GPU.or_fallback() == Device::GPU {
        routes.push((Device::GPU, KvKind::F16, 2e-3));
    } else {
        let required = std::env::var("UNIMLX_REQUIRE_GPU").is_ok_and(|v| v == "1");
        assert!(!required, "UNIMLX_REQUIRE_GPU=1, but there is no adapter");
    }
    routes
}

fn ids(n: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * i * 7 + i * 3) % 500) as u32).collect()
}

fn error(a: &[f32], b: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x).powi(2);
    let error: f64 = a.iter().zip(b).map(|(&a, &b)| square(a - b)).sum();
    (error / b.iter().map(|&b| square(b)).sum::<f64>()).sqrt()
}

#[test]
fn a_sequence_may_be_cut_anywhere() {
    for (device, kind, tolerance) in routes() {
        for name in ["llama", "mistral", "qwen2-mlx-q4g64", "qwen3-mlx-q4g64"] {
            let model = model(name, device);
            let ids = ids(90); // longer than mistral's window
            let vocab = model.config().vocab_size;
            let whole = logits(&model, &ids, Some(kind)).unwrap();
            let mut got = vec![0f32; vocab];
            let mut check = |runner: &Runner, at: usize, what: &str| {
                runner.read(&mut got).unwrap();
                let error = error(&got, &whole[at * vocab..][..vocab]);
                assert!(error < tolerance, "{name} on the {device}, {what} {at}: {error:.1e}");
            };
            for cut in [1, 63, 64, 65, 89] {
                let mut runner = Runner::new(&model, kind);
                runner.step(&ids[..cut], Want::Last).unwrap();
                check(&runner, cut - 1, "the first, up to");
                runner.step(&ids[cut..], Want::Last).unwrap();
                check(&runner, 89, "after a cut, at");
            }
            let mut runner = Runner::new(&model, kind);
            for (i, id) in ids.iter().enumerate() {
                runner.step(std::slice::from_ref(id), Want::Last).unwrap();
                check(&runner, i, "one by one, at");
            }
        }
    }
}

#[test]
fn chunks_and_a_growing_cache_change_nothing() {
    for (device, kind, tolerance) in routes() {
        let model = model("llama-tied", device);
        let ids = ids(CHUNK + 40);
        let vocab = model.config().vocab_size;
        let whole = logits(&model, &ids, Some(kind)).unwrap();
        let mut runner = Runner::new(&model, kind);
        let mut got = vec![0f32; vocab];
        for part in [&ids[..200], &ids[200..270], &ids[270..]] {
            runner.prompt(part, Want::Last, &mut |_| ControlFlow::Continue(())).unwrap(); // grows twice
        }
        runner.read(&mut got).unwrap();
        let error = error(&got, &whole[(ids.len() - 1) * vocab..]);
        assert!(error < tolerance, "on the {device}: {error:.1e}");
    }
}

#[test]
fn a_conversation_reads_only_what_is_new() {
    let model = model("qwen3", Device::CPU);
    let options = GenerateOptions { max_tokens: Some(5), ignore_eos: true, ..GenerateOptions::default() };
    let mut generator = Generator::new(&model, None);
    generator.prompt(&ids(30), options.clone()).unwrap();
    let first: Vec<u32> = generator.by_ref().map(Result::unwrap).collect();
    let talk = [ids(30), first, vec![9, 8, 7]].concat();
    generator.prompt(&talk, options.clone()).unwrap();
    // The answer's last token was never put through the model.
    assert_eq!((generator.stats().cached_tokens, generator.stats().prompt_tokens), (34, 4));
    let continued: Vec<u32> = generator.by_ref().map(Result::unwrap).collect();
    let mut fresh = Generator::new(&model, None);
    fresh.prompt(&talk, options).unwrap();
    assert_eq!(continued, fresh.by_ref().map(Result::unwrap).collect::<Vec<u32>>());
}
