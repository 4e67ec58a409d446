//! A cache changes nothing: however a sequence is cut, what follows is the same.

use super::pace::chunk_on;
use super::runner::{Runner, Want};
use super::{Batch, BatchItem, GenerateOptions, Generator, LogitsHook, logits};
use crate::array::Device;
use crate::kv_quantization::KvKind;
use crate::models::{LoadOptions, Model};
use crate::nn::Progress;
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
        let model = model("llama-tied", device);
        let ids = ids(chunk_on(device) + 40);
        let vocab = model.config().vocab_size;
        let whole = logits(&model, &ids, Some(kind)).unwrap();
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

fn greedy(n: usize) -> GenerateOptions {
    GenerateOptions { max_tokens: Some(n), ignore_eos: true, ..GenerateOptions::default() }
}

/// Choices of every kind.
fn choices(n: usize) -> Vec<GenerateOptions> {
    let sampled = |temperature, seed| GenerateOptions { temperature, seed, ..greedy(n) };
    vec![
        greedy(n),
        GenerateOptions { repetition_penalty: 1.4, ..greedy(n) },
        sampled(1.5, 3),
        GenerateOptions { top_k: 20, min_p: 0.05, ..sampled(1.2, 1 << 40) },
        GenerateOptions { top_p: 0.7, repetition_penalty: 1.2, ..sampled(2.0, 5) },
    ]
}

fn answer(generator: &mut Generator, prompt: &[u32], options: GenerateOptions) -> Vec<u32> {
    generator.prompt(prompt, options).unwrap();
    generator.by_ref().map(Result::unwrap).collect()
}

#[test]
fn the_device_chooses_as_the_host_does() {
    if routes().len() < 2 {
        return;
    }
    for name in ["llama", "qwen3-mlx-q4g64"] {
        let model = model(name, Device::GPU);
        let (mut device, mut host) = (Generator::new(&model, None), Generator::new(&model, None));
        assert!(device.runner.chooses());
        host.runner.chooses = Some(false);
        for options in choices(20) {
            // One token, some, and more than a chunk.
            for n in [1, 30, chunk_on(Device::GPU) + 1] {
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
fn run(batch: &mut Batch, mut joins: Vec<(usize, usize, Vec<u32>, GenerateOptions)>) -> Vec<Vec<u32>> {
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
        let all = choices(16);
        let joins = |i: usize| (i / 2, i, ids(10 + 7 * i), all[i].clone());
        let mut batch = Batch::new(&model, all.len(), None).unwrap();
        let answers = run(&mut batch, (0..all.len()).map(joins).collect());
        for (i, got) in answers.iter().enumerate() {
            let alone = answer(&mut Generator::new(&model, None), &ids(10 + 7 * i), all[i].clone());
            assert_eq!(got, &alone, "on the {device}: {:?}", all[i]);
            assert_eq!(batch.tokens(i)[10 + 7 * i..], alone);
        }
        assert!(Batch::new(&model, 9, None).is_err() && batch.prompt(5, &[1], greedy(1)).is_err());
    }
}

/// Answers that do not fit into the cache together wait for each other, and are what each is alone.
#[test]
fn where_pages_run_out_the_youngest_wait_and_answers_stay_the_same() {
    for (device, ..) in routes() {
        let model = model("llama", device);
        let prompts: Vec<Vec<u32>> =
            [100, 60, 120, 90].iter().enumerate().map(|(i, &n)| ids(n + i)[i..].to_vec()).collect();
        let alone: Vec<Vec<u32>> = prompts
            .iter()
            .map(|prompt| answer(&mut Generator::new(&model, None), prompt, greedy(90)))
            .collect();
        for (pages, prefixes) in [(4, true), (5, false), (64, true)] {
            let mut batch = Batch::new(&model, 4, None).unwrap();
            batch.limit_cache(pages * 128);
            batch.keep_prefixes(prefixes);
            let joins = (0..4).map(|i| (i, i, prompts[i].clone(), greedy(90))).collect();
            assert_eq!(run(&mut batch, joins), alone, "{pages} pages on the {device}");
            assert_eq!(batch.preempted() > 0, pages < 8, "{pages} pages: {}", batch.preempted());
            assert!(batch.cache().pages() <= pages);
        }
    }
}

#[test]
fn an_answer_that_all_pages_are_too_few_for_fails_alone() {
    let model = model("llama", Device::CPU);
    let mut batch = Batch::new(&model, 2, None).unwrap();
    batch.limit_cache(3 * 128);
    batch.prompt(0, &ids(300), greedy(200)).unwrap();
    let e = batch.prompt(1, &ids(500)[100..], greedy(3)).unwrap_err();
    assert!(e.is_memory() && e.to_string().contains("384"), "{e}");
    let mut tokens = 0;
    while batch.is_active() {
        for &(slot, item) in batch.step().unwrap() {
            match item {
                BatchItem::Token(_) => tokens += 1,
                BatchItem::End(reason) => assert_eq!((slot, reason), (0, super::FinishReason::Failed)),
            }
        }
    }
    assert_eq!(tokens, 3 * 128 - 300 + 1);
    assert!(batch.failure(0).is_some_and(crate::Error::is_memory));
    // What it had is there for others.
    let short = run(&mut batch, vec![(0, 1, ids(40), greedy(5))]);
    assert_eq!(short[1], answer(&mut Generator::new(&model, None), &ids(40), greedy(5)));
}

#[test]
fn a_prompt_begins_with_what_any_had() {
    for (device, ..) in routes() {
        let model = model("llama", device);
        let mut batch = Batch::new(&model, 2, None).unwrap();
        let text = ids(330);
        let fresh = answer(&mut Generator::new(&model, None), &text, greedy(6));
        // Of another slot token by token; of pages that nobody has any more by whole pages.
        assert_eq!(batch.reuse(0, &text).unwrap(), 0);
        assert_eq!(run(&mut batch, vec![(0, 0, text.clone(), greedy(6))])[0], fresh);
        assert_eq!(batch.reuse(1, &text).unwrap(), 329);
        assert_eq!(batch.pages_of(0..2), 4);
        assert_eq!(run(&mut batch, vec![(0, 1, text.clone(), greedy(6))])[1], fresh);
        batch.forget(0).unwrap();
        batch.forget(1).unwrap();
        assert_eq!((batch.pages_of(0..2), batch.reuse(1, &text).unwrap()), (0, 256));
        assert_eq!(run(&mut batch, vec![(0, 1, text.clone(), greedy(6))])[1], fresh);
        batch.keep_prefixes(false);
        batch.forget(1).unwrap();
        assert_eq!(batch.reuse(1, &text).unwrap(), 0);
    }
}

/// A fixture whose layers see so many tokens, on a device.
fn sliding(window: usize, device: Device) -> Model {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/mistral/model");
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(root).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let path = folder.path().join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["sliding_window"] = window.into();
    std::fs::write(&path, config.to_string()).unwrap();
    Model::load(folder.path(), LoadOptions { device: Some(device), ..LoadOptions::default() }).unwrap()
}

/// Windows less than a page, a page, and no whole number of pages: answers as without giving anything back.
#[test]
fn layers_with_a_window_keep_no_more_than_it_needs() {
    for (device, ..) in routes() {
        for (window, kind) in [(50, None), (128, None), (300, Some(KvKind::Int8)), (128, Some(KvKind::K4V3))]
        {
            let model = sliding(window, device);
            let prompt = ids(930);
            let kind = kind.unwrap_or(KvKind::default_for(device));
            let in_chunks = |room: usize| {
                let mut generator = Generator::new(&model, Some(kind));
                generator.runner.chunk = 256;
                generator.runner.cache.set_chunk(room);
                generator
            };
            // A cache that is told of no chunk has room for everything.
            let (mut whole, mut generator) = (in_chunks(usize::MAX), in_chunks(256));
            let expected = answer(&mut whole, &prompt, greedy(40));
            assert_eq!(answer(&mut generator, &prompt, greedy(40)), expected, "{window} {kind} {device}");
            let most = (window + 64 + 256).div_ceil(128) + 1;
            assert_eq!((whole.cache().pages(), generator.cache().pages() <= most), (8, true));
            // The latest tokens may be taken back; what lies further has to be read again.
            generator.prompt(&[&prompt[..], &expected[..30]].concat(), greedy(5)).unwrap();
            assert_eq!(generator.stats().cached_tokens, 959);
            assert_eq!(generator.by_ref().map(Result::unwrap).collect::<Vec<_>>(), expected[30..35]);
            generator.trim(500);
            let fresh = answer(&mut in_chunks(256), &prompt[..501], greedy(5));
            generator.prompt(&prompt[..501], greedy(5)).unwrap();
            assert_eq!(generator.stats().cached_tokens, 0);
            assert_eq!(generator.by_ref().map(Result::unwrap).collect::<Vec<_>>(), fresh);
        }
    }
}

#[test]
fn sequences_with_a_window_share_what_they_need() {
    for (device, ..) in routes() {
        let model = sliding(100, device);
        let text = ids(400);
        let mut batch = Batch::new(&model, 3, None).unwrap();
        let fresh = answer(&mut Generator::new(&model, None), &text, greedy(150));
        assert_eq!(run(&mut batch, vec![(0, 0, text.clone(), greedy(150))])[0], fresh, "on the {device}");
        // The beginning has gone from the slot, its pages can be found yet: those before token 384.
        let again: Vec<u32> = [&text[..390], &[7, 8, 9]].concat();
        assert_eq!(batch.reuse(1, &again).unwrap(), 384);
        let alone = answer(&mut Generator::new(&model, None), &again, greedy(20));
        assert_eq!(run(&mut batch, vec![(0, 1, again, greedy(20))])[1], alone, "on the {device}");
        // Behind the whole of it.
        let on = [&text[..], &fresh[..], &[5]].concat();
        assert!(batch.reuse(2, &on).unwrap() >= 512);
        let alone = answer(&mut Generator::new(&model, None), &on, greedy(20));
        assert_eq!(run(&mut batch, vec![(0, 2, on, greedy(20))])[2], alone);
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
