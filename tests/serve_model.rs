//! The API's engine with the shipped model: answers do not depend on their neighbours.
#![cfg(feature = "serve")]

use std::path::Path;
use std::time::{Duration, Instant};
use unimlx::serve::{
    Card, Engine, EngineOptions, Event, Events, Logprobs, ModelEngine, Pooling, Refusal, Request,
};
use unimlx::{Checkpoint, Device, GenerateOptions, Generator, LoadOptions, LogitsHook, Model};

fn shipped() -> (Model, Card) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/storyteller");
    let checkpoint = Checkpoint::open(folder).unwrap();
    let options = LoadOptions { device: Some(Device::CPU), ..LoadOptions::default() };
    let model = Model::from_checkpoint(&checkpoint, options).unwrap();
    let card = Card {
        names: vec!["storyteller".to_owned()],
        tokenizer: checkpoint.tokenizer().unwrap(),
        template: checkpoint.chat_template().unwrap(),
        context_length: model.context_length(),
        vocab_size: model.config().vocab_size,
        defaults: GenerateOptions::suggested(model.generation_config()),
    };
    (model, card)
}

fn engine(options: EngineOptions) -> (Model, ModelEngine) {
    let (model, card) = shipped();
    let engine = ModelEngine::new(&model, card, options).unwrap();
    (model, engine)
}

fn with_slots(slots: usize) -> EngineOptions {
    let mut options = EngineOptions::default();
    options.slots = slots;
    options
}

fn greedy(n: usize) -> GenerateOptions {
    GenerateOptions { max_tokens: Some(n), ignore_eos: true, ..GenerateOptions::default() }
}

async fn answer(mut events: Events) -> (Vec<u32>, Vec<Logprobs>, usize) {
    let (mut ids, mut all, mut hits) = (Vec::new(), Vec::new(), 0);
    while let Some(event) = events.next().await {
        match event {
            Event::Start { cached } => hits = cached,
            Event::Token { id, logprobs } => {
                ids.push(id);
                all.extend(logprobs.map(|l| *l));
            }
            Event::End(_) => return (ids, all, hits),
            Event::Failed(e) => panic!("{e}"),
        }
    }
    panic!("no end");
}

/// Different in length; one is longer than a chunk.
fn prompts(engine: &ModelEngine) -> Vec<Vec<u32>> {
    let names = ["Eli", "a fox", "the moon", "my grandmother", "Violet", "a robot", "two ships", "nobody"];
    let prompt = |(i, name): (usize, &&str)| {
        let text = format!("Once upon a time there was {name}. ").repeat(1 + 11 * i);
        engine.card().tokenizer.encode(&text, true).unwrap()
    };
    names.iter().enumerate().map(prompt).collect()
}

#[tokio::test]
async fn eight_at_once_say_what_each_says_alone() {
    let (model, engine) = engine(EngineOptions::default());
    let prompts = prompts(&engine);
    assert!(prompts.last().unwrap().len() > 512);
    let alone = |prompt: &Vec<u32>, options: GenerateOptions| -> Vec<u32> {
        let mut generator = Generator::new(&model, None);
        generator.prompt(prompt, options).unwrap();
        generator.by_ref().map(Result::unwrap).collect()
    };
    // The second round finds its prompts in the cache.
    for round in 0..2 {
        let submit = |(i, prompt): (usize, &Vec<u32>)| {
            let request =
                Request { tokens: prompt.clone(), options: greedy(30 + 4 * i), ..Request::default() };
            engine.submit(request).unwrap()
        };
        let events: Vec<Events> = prompts.iter().enumerate().map(submit).collect();
        for (i, events) in events.into_iter().enumerate() {
            let (ids, _, cached) = answer(events).await;
            assert_eq!(ids, alone(&prompts[i], greedy(30 + 4 * i)), "round {round}, request {i}");
            assert!(round == 0 || cached == prompts[i].len() - 1, "request {i}: {cached} cached");
        }
    }
    // Sampling as well.
    let sampled = GenerateOptions { temperature: 0.9, top_p: 0.9, seed: 7, ..greedy(20) };
    let request =
        |i: usize| Request { tokens: prompts[i].clone(), options: sampled.clone(), ..Request::default() };
    let (a, b) = (engine.submit(request(0)).unwrap(), engine.submit(request(1)).unwrap());
    assert_eq!(answer(a).await.0, alone(&prompts[0], sampled.clone()));
    assert_eq!(answer(b).await.0, alone(&prompts[1], sampled.clone()));
}

#[tokio::test]
async fn probabilities_and_penalties_come_from_the_host() {
    let (model, engine) = engine(with_slots(2));
    let tokens = prompts(&engine)[0].clone();
    let request = |change: &dyn Fn(&mut Request)| {
        let mut request = Request { tokens: tokens.clone(), options: greedy(12), ..Request::default() };
        change(&mut request);
        engine.submit(request).unwrap()
    };
    let plain = answer(request(&|_| {})).await.0;
    let (ids, all, _) = answer(request(&|r| r.logprobs = Some(3))).await;
    assert_eq!((&ids, all.len()), (&plain, 12));
    let whole = [&tokens[..], &ids].concat();
    let logits = unimlx::logits(&model, &whole, None).unwrap();
    let vocab = model.config().vocab_size;
    for (i, got) in all.iter().enumerate() {
        let row = &logits[(tokens.len() - 1 + i) * vocab..][..vocab];
        let norm = row.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln() as f32;
        let want = row[ids[i] as usize] - norm;
        assert!((got.chosen - want).abs() < 1e-3, "token {i}: {} for {want}", got.chosen);
        assert_eq!((got.top[0].0, got.top.len()), (ids[i], 3));
    }
    let banned = plain[0];
    let (ids, ..) = answer(request(&|r| r.logit_bias = vec![(banned, -100.0)])).await;
    assert!(!ids.contains(&banned));
    let (ids, ..) = answer(request(&|r| r.frequency_penalty = 2.0)).await;
    let mut distinct = ids.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_ne!(ids, plain);
    // A neighbour that the host chooses for changes nothing.
    let (a, b) = (request(&|_| {}), request(&|r| r.presence_penalty = 1.0));
    assert_eq!(answer(a).await.0, plain);
    answer(b).await;
}

/// Allows two tokens.
struct Two;

impl LogitsHook for Two {
    fn adjust(&mut self, _prompt: &[u32], answer: &[u32], _logits: &mut [f32]) -> unimlx::Result<()> {
        if answer.len() < 2 { Ok(()) } else { Err(unimlx::Error::input("two are enough")) }
    }
}

#[tokio::test]
async fn a_schema_is_kept_and_a_hook_that_fails_fails_alone() {
    let (_, engine) = engine(with_slots(2));
    let tokens = prompts(&engine)[0].clone();
    let request = |hook| Request { tokens: tokens.clone(), options: greedy(12), hook, ..Request::default() };
    let mut failing = engine.submit(request(Some(Box::new(Two)))).unwrap();
    let fine = engine.submit(request(None)).unwrap();
    let mut seen = 0;
    let error = loop {
        match failing.next().await {
            Some(Event::Token { .. }) => seen += 1,
            Some(Event::Start { .. }) => {}
            Some(Event::Failed(e)) => break e.to_string(),
            other => panic!("{other:?}"),
        }
    };
    assert!(seen == 2 && error.contains("two are enough"), "{seen}: {error}");
    assert_eq!(answer(fine).await.0.len(), 12);
    let schema = serde_json::json!({ "type": "object", "properties": {
        "name": { "type": "string", "maxLength": 12 }, "animal": { "enum": ["dog", "cat"] } },
        "required": ["name", "animal"], "additionalProperties": false });
    let body = serde_json::json!({ "model": "storyteller", "seed": 3, "temperature": 1,
        "messages": [{ "role": "user", "content": "Who?" }],
        "response_format": { "type": "json_schema", "json_schema": { "name": "who", "schema": schema } } });
    let request = axum::http::Request::post("/v1/chat/completions")
        .body(axum::body::Body::from(body.to_string()))
        .unwrap();
    let response = tower::ServiceExt::oneshot(unimlx::serve::router(engine), request).await.unwrap();
    assert_eq!(response.status(), 200);
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    let body: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(body["choices"][0]["finish_reason"], "stop", "{body}");
    let content = body["choices"][0]["message"]["content"].as_str().unwrap();
    let object: serde_json::Value = serde_json::from_str(content).unwrap();
    assert!(object["name"].is_string() && ["dog", "cat"].contains(&object["animal"].as_str().unwrap()));
}

#[tokio::test]
async fn who_leaves_frees_the_slot() {
    let mut options = with_slots(1);
    options.queue = 1;
    let (_, engine) = engine(options);
    let tokens = prompts(&engine)[7].clone();
    let submit = |n: usize| {
        engine.submit(Request { tokens: tokens.clone(), options: greedy(n), ..Request::default() })
    };
    let mut first = submit(1000).unwrap();
    assert!(matches!(first.next().await, Some(Event::Start { .. })));
    let second = submit(1000).unwrap();
    assert!(matches!(submit(1), Err(Refusal::Full(_))));
    assert_eq!((engine.load().running, engine.load().waiting), (1, 1));
    drop((first, second));
    let third = submit(3).unwrap();
    let (ids, _, cached) = answer(third).await;
    assert_eq!((ids.len(), cached), (3, tokens.len() - 1));
    let begin = Instant::now();
    while engine.load().running + engine.load().waiting + engine.load().cache_used > 0 {
        assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", engine.load());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn embeddings_are_unit_vectors_and_like_for_like() {
    let (model, engine) = engine(with_slots(1));
    let texts = ["the little fox ran home", "the little fox ran away", "Violet counted stars"];
    let inputs: Vec<Vec<u32>> =
        texts.iter().map(|t| engine.card().tokenizer.encode(t, true).unwrap()).collect();
    for pooling in [Pooling::Mean, Pooling::Last] {
        let vectors = engine.embed(inputs.clone(), pooling).unwrap().await.unwrap();
        let dot =
            |a: usize, b: usize| -> f32 { vectors[a].iter().zip(&vectors[b]).map(|(x, y)| x * y).sum() };
        assert_eq!(vectors[0].len(), model.config().hidden_size);
        assert!((dot(0, 0) - 1.0).abs() < 1e-4);
        assert!(pooling == Pooling::Last || dot(0, 1) > dot(0, 2), "{} {}", dot(0, 1), dot(0, 2));
    }
}
