//! A cache changes nothing: however a sequence is cut, what follows is the same.

use super::pace::chunk_on;
use super::runner::{Runner, Want};
use super::{Batch, BatchItem, GenerateOptions, Generator, LogitsHook, logits};
use crate::array::Device;
use crate::gpu::{Gpu, or_skip};
use crate::kv_quantization::KvKind;
use crate::models::{LoadOptions, Model};
use crate::nn::Progress;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) fn model(name: &str, device: Device) -> Model {
    load(&golden(name), device)
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name).join("model")
}

fn load(folder: &Path, device: Device) -> Model {
    Model::load(folder, LoadOptions { device: Some(device), ..LoadOptions::default() }).unwrap()
}

/// A fixture's folder, to be changed.
fn copy_of(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden(name)).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    folder
}

/// A fixture whose configuration says something else.
pub(super) fn changed(name: &str, field: &str, value: usize, device: Device) -> Model {
    let folder = copy_of(name);
    let path = folder.path().join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config[field] = value.into();
    std::fs::write(path, config.to_string()).unwrap();
    load(folder.path(), device)
}

/// A fixture with room for a few chunks, whatever the device.
fn with_room(name: &str, device: Device) -> Model {
    changed(name, "max_position_embeddings", 4 * chunk_on(device), device)
}

/// Devices, the cache each uses, and by how much kernels of different shapes may differ there: some multiply halves.
pub(super) fn routes() -> Vec<(Device, KvKind, f64)> {
    let on_gpu =
        |gpu: Arc<Gpu>| (Device::GPU, KvKind::F16, if gpu.caps().has_matrix_units() { 5e-3 } else { 2e-3 });
    let mut routes = vec![(Device::CPU, KvKind::F32, 1e-5)];
    routes.extend(or_skip(Gpu::shared()).map(on_gpu));
    routes
}

pub(super) fn ids(n: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * i * 7 + i * 3) % 500) as u32).collect()
}

pub(super) fn error(a: &[f32], b: &[f32]) -> f64 {
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
            let whole = logits(&model, &ids, &[kind]).unwrap();
            let mut got = vec![0f32; vocab];
            let mut check = |runner: &Runner, at: usize, what: &str| {
                runner.read(&mut got).unwrap();
                let error = error(&got, &whole[at * vocab..][..vocab]);
                assert!(error < tolerance, "{name} on the {device}, {what} {at}: {error:.1e}");
            };
            for cut in [1, 63, 64, 65, 89] {
                let mut runner = Runner::new(&model, 1, kind);
                runner.step(0, &ids[..cut], Want::Last).unwrap();
                check(&runner, cut - 1, "the first, up to");
                runner.step(0, &ids[cut..], Want::Last).unwrap();
                check(&runner, 89, "after a cut, at");
            }
            let mut runner = Runner::new(&model, 1, kind);
            for (i, id) in ids.iter().enumerate() {
                runner.step(0, std::slice::from_ref(id), Want::Last).unwrap();
                check(&runner, i, "one by one, at");
            }
        }
    }
}

#[test]
fn chunks_and_a_growing_cache_change_nothing() {
    for (device, kind, tolerance) in routes() {
        let model = with_room("llama-tied", device);
        let ids = ids(chunk_on(device) + 40);
        let vocab = model.config().vocab_size;
        let whole = logits(&model, &ids, &[kind]).unwrap();
        let mut runner = Runner::new(&model, 1, kind);
        let mut got = vec![0f32; vocab];
        for part in [&ids[..200], &ids[200..270], &ids[270..]] {
            runner.prompt(0, part, Want::Last, &mut |_| ControlFlow::Continue(())).unwrap(); // grows twice
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

pub(super) fn greedy(n: usize) -> GenerateOptions {
    GenerateOptions { max_tokens: Some(n), ignore_eos: true, ..GenerateOptions::default() }
}

/// Choices of every kind.
fn choices(n: usize) -> Vec<GenerateOptions> {
    let sampled = |temperature, seed| GenerateOptions { temperature, seed, ..greedy(n) };
    vec![
        greedy(n),
        GenerateOptions { repetition_penalty: 1.4, ..greedy(n) },
        sampled(1.5, 3),
        sampled(0.01, 9),
        GenerateOptions { top_k: 1, ..sampled(1e6, 8) },
        GenerateOptions { top_k: 300, top_p: 1e-4, ..sampled(1.0, 7) },
        GenerateOptions { min_p: 1.0, ..sampled(3.0, 6) },
        GenerateOptions { min_p: 1e-3, top_p: 0.95, top_k: 7, repetition_penalty: 0.8, ..sampled(1e3, 4) },
        GenerateOptions { top_k: 20, min_p: 0.05, ..sampled(1.2, 1 << 40) },
        GenerateOptions { top_p: 0.7, repetition_penalty: 1.2, ..sampled(2.0, 5) },
    ]
}

pub(super) fn answer(generator: &mut Generator, prompt: &[u32], options: GenerateOptions) -> Vec<u32> {
    generator.prompt(prompt, options).unwrap();
    generator.by_ref().map(Result::unwrap).collect()
}

#[test]
fn the_device_chooses_as_the_host_does() {
    if routes().len() < 2 {
        return;
    }
    for name in ["llama", "qwen3-mlx-q4g64"] {
        let model = with_room(name, Device::GPU);
        let (mut device, mut host) = (Generator::new(&model, None), Generator::new(&model, None));
        assert!(device.runner.chooses());
        host.runner.chooses = Some(false);
        for (i, options) in choices(20).into_iter().enumerate() {
            // One token, some, and, not each time, more than a chunk.
            for n in [1, 30, chunk_on(Device::GPU) + 1].into_iter().take(if i % 5 == 1 { 3 } else { 2 }) {
                let (a, b) = (answer(&mut device, &ids(n), options.clone()), {
                    answer(&mut host, &ids(n), options.clone())
                });
                assert_eq!(a, b, "{name}, {n} tokens, {options:?}");
                assert_eq!(device.cache().len(), host.cache().len());
            }
        }
    }
}

#[test]
fn a_step_is_a_few_dispatches_and_ends_with_the_choice() {
    if routes().len() < 2 {
        return;
    }
    for name in ["llama", "mistral", "qwen2", "qwen3"] {
        let model = model(name, Device::GPU);
        let mut generator = Generator::new(&model, None);
        answer(&mut generator, &ids(9), greedy(3));
        let recording = generator.runner.recording();
        let steps = recording.lines().count();
        assert!(steps <= 6 * model.config().num_hidden_layers + 3, "{name}: {steps}\n{recording}");
        assert!(recording.lines().last().is_some_and(|step| step.contains("next")), "{recording}");
    }
}

#[test]
fn a_step_too_many_is_forgotten() {
    for (device, ..) in routes() {
        let model = model("qwen3", device);
        for options in choices(24) {
            let whole = answer(&mut Generator::new(&model, None), &ids(20), options.clone());
            let end = whole.iter().position(|&id| id == whole[9]).unwrap();
            let stops = GenerateOptions { stop_ids: vec![whole[9]], ..options.clone() };
            let mut generator = Generator::new(&model, None);
            let first = answer(&mut generator, &ids(20), stops.clone());
            assert_eq!((&first[..], generator.cache().len()), (&whole[..end], 20 + end));
            // The same again, from the cache; then on from where it stopped, or was left.
            assert_eq!(answer(&mut generator, &ids(20), stops), first);
            let talk = [ids(20), first, vec![9, 8, 7]].concat();
            let fresh = answer(&mut Generator::new(&model, None), &talk, options.clone());
            generator.prompt(&talk, options.clone()).unwrap();
            assert_eq!(generator.stats().cached_tokens, 20 + end);
            assert_eq!(generator.by_ref().take(5).map(Result::unwrap).collect::<Vec<_>>(), fresh[..5]);
            assert_eq!(answer(&mut generator, &talk, options), fresh);
        }
    }
}

#[test]
fn a_growing_cache_changes_no_answer() {
    for (device, ..) in routes() {
        let model = model("llama-tied", device);
        let mut generator = Generator::new(&model, None);
        // The first reservation is for 256 tokens; nobody says how many will come.
        let options = GenerateOptions { max_tokens: None, ..greedy(0) };
        generator.prompt(&ids(250), options.clone()).unwrap();
        let got: Vec<u32> = generator.by_ref().take(20).map(Result::unwrap).collect();
        let mut roomy = Generator::new(&model, None);
        assert_eq!(got, answer(&mut roomy, &ids(250), greedy(20)));
        assert!(generator.cache().capacity() > 256);
    }
}

/// Runs a batch until all answers have ended; `(slot, prompt)` join after so many steps.
pub(super) fn run(
    batch: &mut Batch,
    mut joins: Vec<(usize, usize, Vec<u32>, GenerateOptions)>,
) -> Vec<Vec<u32>> {
    let mut answers = vec![Vec::new(); batch.cache().slots()];
    for step in 0.. {
        joins.retain(|(at, slot, prompt, options)| {
            if *at == step {
                answers[*slot].clear();
                batch.prompt(*slot, prompt, options.clone()).unwrap();
            }
            *at > step
        });
        if joins.is_empty() && !batch.is_active() {
            return answers;
        }
        for &(slot, item) in batch.step().unwrap() {
            if let BatchItem::Token(id) = item {
                answers[slot].push(id);
            }
        }
    }
    answers
}

#[test]
fn a_batch_answers_as_each_alone() {
    for (device, ..) in routes() {
        for name in ["llama", "mistral", "qwen2-mlx-q4g64"] {
            let model = model(name, device);
            let prompts: Vec<Vec<u32>> = [3, 40, 1, 90, 17, 64, 5, 33]
                .iter()
                .enumerate()
                .map(|(i, &n)| ids(n + i)[i..].to_vec())
                .collect();
            let options: Vec<GenerateOptions> = (0..8).map(|i| greedy(10 + 3 * (i % 4))).collect();
            let alone: Vec<Vec<u32>> = prompts
                .iter()
                .zip(&options)
                .map(|(prompt, options)| answer(&mut Generator::new(&model, None), prompt, options.clone()))
                .collect();
            for slots in [1, 3, 8] {
                let mut batch = Batch::new(&model, slots, None).unwrap();
                // Half begin at once, the others join in turn.
                let join =
                    |i: usize| (2 * i.saturating_sub(slots / 2), i, prompts[i].clone(), options[i].clone());
                assert_eq!(
                    run(&mut batch, (0..slots).map(join).collect()),
                    alone[..slots],
                    "{name}, {slots}"
                );
                // A slot is used again, by a longer conversation, while nobody else is active.
                let talk = [&prompts[0][..], &alone[0], &[7, 8]].concat();
                let again = run(&mut batch, vec![(0, 0, talk.clone(), greedy(9))]);
                let fresh = answer(&mut Generator::new(&model, None), &talk, greedy(9));
                assert_eq!(again[0], fresh, "{name}, {slots} slots, again");
            }
        }
    }
}

#[test]
fn sequences_of_a_batch_have_their_own_options() {
    for (device, ..) in routes() {
        let model = model("llama", device);
        let all = &choices(16)[..8];
        let joins = |i: usize| (i / 2, i, ids(10 + 7 * i), all[i].clone());
        let mut batch = Batch::new(&model, all.len(), None).unwrap();
        let answers = run(&mut batch, (0..all.len()).map(joins).collect());
        for (i, got) in answers.iter().enumerate() {
            let alone = answer(&mut Generator::new(&model, None), &ids(10 + 7 * i), all[i].clone());
            assert_eq!(got, &alone, "on the {device}: {:?}", all[i]);
            assert_eq!(batch.tokens(i)[10 + 7 * i..], alone);
        }
        assert!(Batch::new(&model, 9, None).is_err() && batch.prompt(8, &[1], greedy(1)).is_err());
    }
}

/// Forbids a token and notes what was chosen.
struct Forbid(u32, std::sync::Arc<std::sync::Mutex<Vec<u32>>>);

impl LogitsHook for Forbid {
    fn adjust(&mut self, _prompt: &[u32], answer: &[u32], logits: &mut [f32]) -> crate::Result<()> {
        assert_eq!(self.1.lock().unwrap()[..], *answer);
        logits[self.0 as usize] = f32::NEG_INFINITY;
        Ok(())
    }

    fn took(&mut self, token: u32) -> crate::Result<bool> {
        self.1.lock().unwrap().push(token);
        Ok(false)
    }
}

#[test]
fn a_hook_has_its_say_and_neighbours_do_not_notice() {
    for (device, ..) in routes() {
        let model = model("llama", device);
        let long = ids(724); // more than a chunk of a batch
        let alone = answer(&mut Generator::new(&model, None), &long, greedy(30));
        let plain = answer(&mut Generator::new(&model, None), &ids(20), greedy(12));
        for forbidden in [plain[0], 575] {
            let mut batch = Batch::new(&model, 3, None).unwrap();
            let (mut answers, mut begun) = (vec![Vec::new(); 3], false);
            let chosen = std::sync::Arc::default();
            let mut hook: Option<Box<dyn LogitsHook>> =
                Some(Box::new(Forbid(forbidden, std::sync::Arc::clone(&chosen))));
            let mut chunk = |p: Progress<'_>| {
                if p.done < p.total { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            batch.prompt(0, &ids(20), greedy(30)).unwrap();
            for step in 0.. {
                // A prompt that is read in chunks, between the steps of others.
                if step >= 3 && !begun {
                    match batch.prompt_with(1, &long, greedy(30), &mut None, &mut chunk) {
                        Ok(()) => begun = true,
                        Err(e) => assert!(e.is_cancelled() && step == 3, "{e}"),
                    }
                }
                if step == 9 {
                    batch.prompt_with(2, &ids(20), greedy(12), &mut hook, &mut chunk).unwrap();
                }
                if !batch.is_active() && step > 9 {
                    break;
                }
                for &(slot, item) in batch.step().unwrap() {
                    if let BatchItem::Token(id) = item {
                        answers[slot].push(id);
                    }
                }
            }
            assert_eq!(answers[0][..12], plain, "on the {device}");
            assert_eq!(answers[1], alone, "on the {device}");
            assert!(!answers[2].contains(&forbidden) && answers[2].len() == 12);
            assert_eq!(*chosen.lock().unwrap(), answers[2]);
            assert_eq!(forbidden == 575, answers[2] == plain);
        }
    }
}

#[test]
fn logits_that_are_no_numbers_end_an_answer_with_an_error() {
    let damaged = copy_of("llama");
    let path = damaged.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let (at, len) = {
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let norm = tensors.tensor("model.norm.weight").unwrap();
        (norm.data().as_ptr() as usize - bytes.as_ptr() as usize, norm.data().len())
    };
    // Of any width these bits are a NaN.
    bytes[at..at + len].fill(0xff);
    std::fs::write(&path, bytes).unwrap();
    for (device, ..) in routes() {
        let model = load(damaged.path(), device);
        for temperature in [0.0, 0.7] {
            let options =
                GenerateOptions { temperature, top_p: 0.9, top_k: 20, ..GenerateOptions::default() };
            let mut generator = Generator::new(&model, None);
            generator.prompt(&ids(5), options.clone()).unwrap();
            let error = generator.next().unwrap().unwrap_err().to_string();
            assert!(error.contains("logits are not numbers"), "{device}: {error}");
            assert!(generator.next().is_none());

            let mut batch = Batch::new(&model, 2, None).unwrap();
            batch.prompt(0, &ids(5), options).unwrap();
            while batch.is_active() {
                batch.step().unwrap();
            }
            let error = batch.failure(0).unwrap().to_string();
            assert!(error.contains("logits are not numbers"), "{device}: {error}");
        }
    }
}
