//! A cache changes nothing: however a sequence is cut, what follows is the same.

use super::runner::{CHUNK, Runner, Want};
use super::{GenerateOptions, Generator, logits};
use crate::array::Device;
use crate::kv_quantization::KvKind;
use crate::models::{LoadOptions, Model};

fn model(name: &str) -> Model {
    let folder =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name).join("model");
    Model::load(folder, LoadOptions { device: Some(Device::CPU), ..LoadOptions::default() }).unwrap()
}

fn ids(n: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * i * 7 + i * 3) % 500) as u32).collect()
}

fn close(a: &[f32], b: &[f32]) -> bool {
    let square = |x: f32| f64::from(x).powi(2);
    let error: f64 = a.iter().zip(b).map(|(&a, &b)| square(a - b)).sum();
    (error / b.iter().map(|&b| square(b)).sum::<f64>()).sqrt() < 1e-5
}

#[test]
fn a_sequence_may_be_cut_anywhere() {
    for name in ["llama", "mistral", "qwen2-mlx-q4g64", "qwen3-mlx-q4g64"] {
        let model = model(name);
        let ids = ids(90); // longer than mistral's window
        let vocab = model.config().vocab_size;
        let whole = logits(&model, &ids, Some(KvKind::F32)).unwrap();
        let mut got = vec![0f32; vocab];
        for cut in [1, 63, 64, 65, 89] {
            let mut runner = Runner::new(&model, KvKind::F32);
            runner.step(&ids[..cut], Want::Last).unwrap();
            runner.read(&mut got).unwrap();
            assert!(close(&got, &whole[(cut - 1) * vocab..][..vocab]), "{name}: the first {cut}");
            runner.step(&ids[cut..], Want::Last).unwrap();
            runner.read(&mut got).unwrap();
            assert!(close(&got, &whole[89 * vocab..]), "{name}: after a cut at {cut}");
        }
        let mut runner = Runner::new(&model, KvKind::F32);
        for (i, &id) in ids.iter().enumerate() {
            runner.step(&[id], Want::Last).unwrap();
            runner.read(&mut got).unwrap();
            assert!(close(&got, &whole[i * vocab..][..vocab]), "{name}: token {i} alone");
        }
    }
}

#[test]
fn chunks_and_a_growing_cache_change_nothing() {
    let model = model("llama-tied");
    let ids = ids(CHUNK + 40);
    let vocab = model.config().vocab_size;
    let whole = logits(&model, &ids, None).unwrap();
    let mut runner = Runner::new(&model, KvKind::F32);
    let mut got = vec![0f32; vocab];
    for part in [&ids[..200], &ids[200..270], &ids[270..]] {
        runner.prompt(part, Want::Last, &mut |_| std::ops::ControlFlow::Continue(())).unwrap(); // grows twice
    }
    runner.read(&mut got).unwrap();
    assert!(close(&got, &whole[(ids.len() - 1) * vocab..]));
}

#[test]
fn a_conversation_reads_only_what_is_new() {
    let model = model("qwen3");
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
