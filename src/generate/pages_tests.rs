//! Pages change nothing but what fits: answers that share them, wait for them or have given some back.

use super::tests::{answer, changed, error, greedy, ids, model, routes, run};
use super::{Batch, BatchItem, FinishReason, Generator, logits, logits_after};
use crate::array::Device;
use crate::kv_quantization::KvKind;
use crate::models::Model;

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
                BatchItem::End(reason) => assert_eq!((slot, reason), (0, FinishReason::Failed)),
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
        assert_eq!((batch.pages_of(0..2), batch.pages_of([0, 1, 2, usize::MAX].into_iter())), (4, 4));
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
    changed("mistral", "sliding_window", window, device)
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

/// A prompt whose beginning has fallen out of the windows goes on from a file, and in a cache of another kind.
#[test]
fn what_windows_have_left_can_be_moved() {
    let folder = tempfile::tempdir().unwrap();
    for (device, kind, bound) in routes() {
        let model = sliding(100, device);
        let (prompt, path) = (ids(700), folder.path().join("prompt.safetensors"));
        let expected = answer(&mut Generator::new(&model, Some(kind)), &prompt, greedy(9));
        let mut generator = Generator::new(&model, Some(kind));
        answer(&mut generator, &prompt[..650], greedy(1));
        generator.save_prompt(&path).unwrap();
        let mut other = Generator::new(&model, Some(kind));
        assert_eq!(other.load_prompt(&path).unwrap(), 650);
        other.prompt(&prompt, greedy(9)).unwrap();
        assert_eq!(other.stats().cached_tokens, 650);
        assert_eq!(other.by_ref().map(Result::unwrap).collect::<Vec<_>>(), expected, "on the {device}");
        let (read, then) = prompt.split_at(690);
        let moved = logits_after(&model, read, then, KvKind::F32, kind).unwrap();
        let whole = logits(&model, &prompt, &[kind]).unwrap();
        let whole = &whole[whole.len() - moved.len()..];
        assert!(error(&moved, whole) < 4.0 * bound, "on the {device}: {}", error(&moved, whole));
    }
}
