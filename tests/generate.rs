//! The generator: limits, stops, seeds, cancellation. Needs the fixtures under `tests/golden`.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use unimlx::{
    Device, FinishReason, GenerateOptions, Generator, KvKind, LoadOptions, Model, Tokenizer, logits,
};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name).join("model")
}

fn model(name: &str) -> Model {
    let options = LoadOptions { device: Some(Device::CPU), ..LoadOptions::default() };
    Model::load(folder(name), options).unwrap()
}

fn answer(generator: &mut Generator, prompt: &[u32], options: GenerateOptions) -> Vec<u32> {
    generator.prompt(prompt, options).unwrap();
    generator.by_ref().map(Result::unwrap).collect()
}

fn greedy(n: usize) -> GenerateOptions {
    GenerateOptions { max_tokens: Some(n), ignore_eos: true, ..GenerateOptions::default() }
}

fn sampled(n: usize, seed: u64) -> GenerateOptions {
    GenerateOptions { temperature: 1.5, seed, ..greedy(n) }
}

#[test]
fn limits_are_kept_and_named() {
    let model = model("llama");
    let mut generator = Generator::new(&model, None);
    assert!(answer(&mut generator, &[1, 2, 3], greedy(0)).is_empty());
    assert_eq!(generator.finish_reason(), Some(FinishReason::Length));
    assert_eq!(answer(&mut generator, &[1, 2, 3], greedy(7)).len(), 7);
    assert_eq!(generator.stats().generated_tokens, 7);
    assert_eq!(generator.tokens().len(), 10);

    let error = generator.prompt(&vec![1; 1025], greedy(1)).unwrap_err();
    assert!(error.is_input() && error.to_string().contains("1025") && error.to_string().contains("1024"));
    let error = generator.prompt(&[5, 576], greedy(1)).unwrap_err();
    assert!(error.is_input() && error.to_string().contains("576"), "{error}");
    assert!(generator.prompt(&[], greedy(1)).unwrap_err().is_input());
    assert!(logits(&model, &[], &[]).unwrap_err().is_input());
    assert!(logits(&model, &[576], &[]).unwrap_err().is_input());
    let nonsense = GenerateOptions { top_p: -1.0, ..greedy(1) };
    assert!(generator.prompt(&[1], nonsense).unwrap_err().to_string().contains("top_p"));
}

#[test]
fn an_answer_ends_where_the_context_does() {
    let model = model("llama-tied");
    let mut generator = Generator::new(&model, None);
    let prompt: Vec<u32> = (0..1020).map(|i| i % 500).collect();
    let options = GenerateOptions { max_tokens: None, ..greedy(0) };
    // The last token is chosen from position 1023 and never put through the model.
    assert_eq!(answer(&mut generator, &prompt, options).len(), 5);
    assert_eq!(generator.finish_reason(), Some(FinishReason::Length));
    assert_eq!(generator.cache().len(), 1024);
}

#[test]
fn end_tokens_end_the_answer_and_are_not_part_of_it() {
    let model = model("qwen3");
    let mut generator = Generator::new(&model, None);
    let whole = answer(&mut generator, &[3, 4, 5], greedy(10));
    let options = GenerateOptions { stop_ids: vec![whole[6]], ..greedy(10) };
    let first = whole.iter().position(|&id| id == whole[6]).unwrap();
    assert_eq!(answer(&mut generator, &[3, 4, 5], options), whole[..first]);
    assert_eq!(generator.finish_reason(), Some(FinishReason::Stop));
    assert!(generator.next().is_none());
}

#[test]
fn a_seed_decides_the_answer() {
    let model = model("qwen2");
    let mut generator = Generator::new(&model, None);
    let mut run = |seed| answer(&mut generator, &[10, 20, 30], sampled(24, seed));
    let first = run(1);
    assert_eq!(first, run(1));
    assert_ne!(first, run(2));
    assert_eq!(first, answer(&mut Generator::new(&model, None), &[10, 20, 30], sampled(24, 1)));
    let one = GenerateOptions { top_k: 1, ..sampled(24, 3) };
    let plain = answer(&mut Generator::new(&model, None), &[10, 20, 30], greedy(24));
    assert_eq!(answer(&mut Generator::new(&model, None), &[10, 20, 30], one), plain);
}

#[test]
fn a_repetition_penalty_ends_repetition() {
    let model = model("llama");
    let options = GenerateOptions { repetition_penalty: 1e6, ..greedy(40) };
    let mut ids = answer(&mut Generator::new(&model, None), &[7, 8, 9], options);
    ids.extend([7, 8, 9]);
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 43);
}

#[test]
fn reading_a_prompt_reports_and_can_be_cancelled() {
    let model = model("llama-tied");
    let mut generator = Generator::new(&model, None);
    let prompt: Vec<u32> = (0..1000).map(|i| i % 500).collect();
    let mut seen = Vec::new();
    let stopped = generator.prompt_with(&prompt, greedy(3), &mut |p| {
        seen.push((p.done, p.total));
        ControlFlow::Break(())
    });
    assert!(stopped.unwrap_err().is_cancelled());
    assert_eq!(seen, [(512, 1000)]);
    assert!(generator.next().is_none());
    // What was read is not read again.
    let resumed = answer(&mut generator, &prompt, greedy(3));
    assert_eq!(generator.stats().cached_tokens, 512);
    assert_eq!(resumed, answer(&mut Generator::new(&model, None), &prompt, greedy(3)));
}

#[test]
fn text_streams_up_to_a_stop_string() {
    let model = model("llama");
    let tokenizer = Tokenizer::open(folder("llama")).unwrap();
    let prompt = tokenizer.encode("A good program", true).unwrap();
    let mut generator = Generator::new(&model, None);
    let ids = answer(&mut generator, &prompt, greedy(32));
    let whole = tokenizer.decode(&ids, true).unwrap();
    generator.prompt(&prompt, greedy(32)).unwrap();
    let streamed: String = generator.text(&tokenizer).map(Result::unwrap).collect();
    assert_eq!(streamed, whole);

    // A stop that lies across tokens: two characters from the middle.
    let middle: Vec<char> = whole.chars().collect();
    let stop: String = middle[middle.len() / 2..][..2].iter().collect();
    let options = GenerateOptions { stop: vec![stop.clone(), "never said".to_owned()], ..greedy(32) };
    generator.prompt(&prompt, options).unwrap();
    let streamed: String = generator.text(&tokenizer).map(Result::unwrap).collect();
    assert_eq!(streamed, whole[..whole.find(&stop).unwrap()]);
    assert_eq!(generator.finish_reason(), Some(FinishReason::Stop));
}

#[test]
fn kinds_of_cache_cost_what_they_say() {
    let model = model("qwen3");
    let bytes = |kind| {
        let mut generator = Generator::new(&model, Some(kind));
        answer(&mut generator, &[1, 2, 3], greedy(2));
        assert!(generator.cache().kinds().iter().all(|of_layer| *of_layer == kind));
        (generator.cache().capacity(), generator.cache().bytes())
    };
    // 3 layers, keys and values of 2 heads of 64.
    assert_eq!(bytes(KvKind::F32), (256, 3 * 2 * 256 * 128 * 4));
    assert_eq!(bytes(KvKind::F16), (256, 3 * 2 * 256 * 128 * 2));
}

#[test]
fn generators_on_many_threads_do_not_disturb_each_other() {
    let model = model("mistral");
    let alone: Vec<_> =
        (0..4).map(|i| answer(&mut Generator::new(&model, None), &[i, 50], sampled(12, 9))).collect();
    std::thread::scope(|scope| {
        let run = |i: u32| {
            let model = &model;
            move || answer(&mut Generator::new(model, None), &[i, 50], sampled(12, 9))
        };
        let threads: Vec<_> = (0..4).map(|i| scope.spawn(run(i))).collect();
        for (thread, alone) in threads.into_iter().zip(&alone) {
            assert_eq!(&thread.join().unwrap(), alone);
        }
    });
}

/// A window's thread may own them.
#[test]
fn what_generates_can_be_sent_to_a_thread() {
    fn is_sent<T: Send>() {}
    is_sent::<Generator>();
    is_sent::<unimlx::Batch>();
    is_sent::<Model>();
    is_sent::<unimlx::Tokenizer>();
    is_sent::<unimlx::Checkpoint>();
}
