//! The API's engine with the shipped model: answers do not depend on their neighbours.
#![cfg(feature = "serve")]

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tower::ServiceExt;
use unimlx::serve::{
    Card, Engine, EngineOptions, Event, Events, Logprobs, ModelEngine, Options, Pooling, Refusal, Request,
    router_with,
};
use unimlx::{Checkpoint, Device, GenerateOptions, Generator, KvKind, LoadOptions, LogitsHook, Model};

fn shipped_on(device: Device) -> (Model, Card) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/storyteller");
    let checkpoint = Checkpoint::open(folder).unwrap();
    let options = LoadOptions { device: Some(device), ..LoadOptions::default() };
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

fn shipped() -> (Model, Card) {
    shipped_on(Device::CPU)
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
    let logits = unimlx::logits(&model, &whole, &[]).unwrap();
    let vocab = model.config().vocab_size;
    for (i, got) in all.iter().enumerate() {
        let row = &logits[(tokens.len() - 1 + i) * vocab..][..vocab];
        let norm = row.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln() as f32;
        let want = row[ids[i] as usize] - norm;
        assert!((got.chosen - want).abs() < 1e-3, "token {i}: {} for {want}", got.chosen);
        assert_eq!((got.top[0].0, got.top.len()), (ids[i], 3));
    }
    let scores = engine.score(vec![whole.clone()], 2).unwrap().await.unwrap().remove(0);
    assert_eq!(scores.len(), whole.len() - 1);
    for (score, got) in scores[tokens.len() - 1..].iter().zip(&all) {
        assert!((score.chosen - got.chosen).abs() < 1e-3 && score.top[0].0 == got.top[0].0);
    }
    let banned = plain[0];
    let (ids, ..) = answer(request(&|r| r.logit_bias = vec![(banned, -100.0)])).await;
    assert!(!ids.contains(&banned));
    let (ids, ..) = answer(request(&|r| r.frequency_penalty = 2.0)).await;
    let distinct = |ids: &[u32]| ids.iter().collect::<HashSet<_>>().len();
    assert!(distinct(&ids) > distinct(&plain), "{ids:?}, without a penalty {plain:?}");
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

/// A model that knows nothing of tools would call them until its context ends.
#[tokio::test]
async fn calls_end_when_the_model_would_say_something_else() {
    let (_, engine) = engine(with_slots(2));
    let api = unimlx::serve::router(engine);
    let parameters = serde_json::json!({ "type": "object", "required": ["city"],
        "properties": { "city": { "type": "string", "maxLength": 20 } } });
    for seed in 0..4 {
        let body = serde_json::json!({ "model": "storyteller", "seed": seed, "temperature": seed.min(1),
            "messages": [{ "role": "user", "content": "What is the weather in Paris?" }], "tool_choice": "required",
            "tools": [{ "type": "function", "function": { "name": "weather", "parameters": parameters } }] });
        let request = axum::http::Request::post("/v1/chat/completions");
        let request = request.body(axum::body::Body::from(body.to_string())).unwrap();
        let response = tower::ServiceExt::oneshot(api.clone(), request).await.unwrap();
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        let choice = &body["choices"][0];
        assert_eq!(
            (&choice["finish_reason"], &choice["message"]["content"]),
            (&"tool_calls".into(), &().into())
        );
        for call in choice["message"]["tool_calls"].as_array().unwrap() {
            let arguments = call["function"]["arguments"].as_str().unwrap();
            let arguments: serde_json::Value = serde_json::from_str(arguments).unwrap();
            assert!(arguments["city"].is_string() && arguments.as_object().unwrap().len() == 1, "{body}");
        }
    }
}

/// What the cache had is told of all prompts of a request, each once.
#[tokio::test]
async fn usage_counts_what_the_cache_had_of_every_prompt() {
    let (_, engine) = engine(with_slots(4));
    let api = unimlx::serve::router(engine);
    let ids: Vec<Vec<u32>> = [3, 5].map(|from| (from..from + 20).collect()).to_vec();
    for round in 0..2 {
        let body = serde_json::json!({ "model": "storyteller", "prompt": ids, "n": 2, "max_tokens": 2 });
        let request = axum::http::Request::post("/v1/completions");
        let request = request.body(axum::body::Body::from(body.to_string())).unwrap();
        let response = api.clone().oneshot(request).await.unwrap();
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        let usage = &body["usage"];
        assert_eq!((&usage["prompt_tokens"], &usage["completion_tokens"]), (&40.into(), &8.into()), "{body}");
        let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
        // All but the last token of each.
        assert!(round == 0 || cached == 38, "{body}");
    }
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

struct Panics;

impl LogitsHook for Panics {
    fn adjust(&mut self, _: &[u32], _: &[u32], _: &mut [f32]) -> unimlx::Result<()> {
        panic!("on purpose")
    }
}

#[tokio::test]
async fn an_engine_that_has_failed_is_not_ready() {
    let (_, engine) = engine(with_slots(1));
    let engine = Arc::new(engine);
    let app = router_with(engine.clone(), Options::default());
    let status = async |path: &str| {
        let request = axum::http::Request::get(path).body(axum::body::Body::empty()).unwrap();
        app.clone().oneshot(request).await.unwrap().status().as_u16()
    };
    assert_eq!((status("/ready").await, status("/health").await), (200, 200));
    assert!(engine.failure().is_none());
    let hook: Option<Box<dyn LogitsHook>> = Some(Box::new(Panics));
    let request = Request { tokens: vec![1, 2], options: greedy(3), hook, ..Request::default() };
    let mut events = engine.submit(request).unwrap();
    while let Some(event) = events.next().await {
        assert!(!matches!(event, Event::Token { .. } | Event::End(_)), "{event:?}");
    }
    assert!(engine.failure().is_some());
    assert_eq!((status("/ready").await, status("/health").await), (503, 200));
    assert!(matches!(engine.submit(Request::default()), Err(Refusal::Failed(_))));
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

#[tokio::test]
async fn work_on_texts_ends_when_nobody_wants_it() {
    let (_, engine) = engine(with_slots(1));
    let text = prompts(&engine)[3].clone();
    let embed = |n: usize| engine.embed(vec![text.clone(); n], Pooling::Last).unwrap();
    embed(1).await.unwrap();
    let begin = Instant::now();
    embed(4).await.unwrap();
    let four = begin.elapsed();
    // A hundred times as much work is given up early.
    let given_up = tokio::time::timeout(four, embed(400)).await;
    assert!(given_up.is_err());
    let begin = Instant::now();
    embed(1).await.unwrap();
    assert!(begin.elapsed() < 30 * four, "{:?}, four texts take {four:?}", begin.elapsed());
}

/// Eight questions behind one long system prompt.
fn behind_one_prefix(card: &Card) -> (usize, Vec<Vec<u32>>) {
    let encode = |text: &str| card.tokenizer.encode(text, true).unwrap();
    let prefix = "The little fox lived in the old forest and knew every path in it. ".repeat(20);
    let names = ["Eli", "Bo", "the moon", "my owl", "Violet", "a robot", "two ships", "nobody"];
    let prompts: Vec<Vec<u32>> =
        names.iter().map(|name| encode(&format!("{prefix}One day {name} came by."))).collect();
    let same = |i: usize| prompts.iter().all(|p| p[i] == prompts[0][i]);
    ((0..).take_while(|&i| same(i)).count(), prompts)
}

async fn all(engine: &ModelEngine, prompts: &[Vec<u32>]) -> Vec<(Vec<u32>, usize)> {
    let submit = |tokens: &Vec<u32>| {
        engine.submit(Request { tokens: tokens.clone(), options: greedy(16), ..Request::default() }).unwrap()
    };
    let events: Vec<Events> = prompts.iter().map(submit).collect();
    let mut answers = Vec::new();
    for events in events {
        let (ids, _, cached) = answer(events).await;
        answers.push((ids, cached));
    }
    answers
}

#[tokio::test]
async fn a_prefix_is_read_once_for_all_and_answers_do_not_depend_on_it() {
    for (device, kinds) in [
        (Device::CPU, vec![]),
        (Device::CPU, vec![KvKind::Int8, KvKind::F32]),
        (Device::CPU, vec![KvKind::Int4]),
        (Device::GPU, vec![]),
    ] {
        let (model, card) = shipped_on(device);
        let engine = |on: bool| {
            let mut options = EngineOptions::default();
            (options.kinds, options.prefix_cache) = (kinds.clone(), on);
            ModelEngine::new(&model, card.clone(), options).unwrap()
        };
        let (prefix, prompts) = behind_one_prefix(&card);
        assert!(prefix > 200, "{prefix}");
        // Software adapters are slow.
        let prompts = if device == Device::GPU { &prompts[..2] } else { &prompts[..] };
        let (with, without) = (engine(true), engine(false));
        let fresh = all(&without, prompts).await;
        assert!(fresh.iter().all(|(_, cached)| *cached == 0));
        let shared = all(&with, prompts).await;
        let read: usize = prompts.iter().zip(&shared).map(|(p, (_, cached))| p.len() - cached).sum();
        let rest: usize = prompts.iter().map(|p| p.len() - prefix).sum();
        assert_eq!(read, prefix + rest, "{device:?} {kinds:?}: tokens that went through the model");
        for (i, (a, b)) in fresh.iter().zip(&shared).enumerate() {
            assert_eq!(a.0, b.0, "{device:?} {kinds:?}, request {i}");
        }
        // Another conversation behind the same prefix costs none of those that are there.
        let more = [prompts[0][..prefix].to_vec(), card.tokenizer.encode("And then", true).unwrap()].concat();
        assert_eq!(all(&with, &[more]).await[0].1, prefix);
    }
}

#[tokio::test]
async fn who_needs_more_memory_than_there_is_fails_alone() {
    let mut options = with_slots(3);
    options.cache_tokens = Some(512);
    let (_, engine) = engine(options);
    let tokens = engine.card().tokenizer.encode("Once upon a time", true).unwrap();
    let submit = |tokens: &Vec<u32>, n: usize| {
        engine.submit(Request { tokens: tokens.clone(), options: greedy(n), ..Request::default() }).unwrap()
    };
    let fails = async |mut events: Events| {
        let mut seen = 0;
        loop {
            match events.next().await {
                Some(Event::Token { .. }) => seen += 1,
                Some(Event::Failed(e)) => return (seen, e),
                Some(Event::Start { .. }) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    let alone = answer(submit(&tokens, 200)).await.0;
    let (long, short, other) = (submit(&tokens, 700), submit(&tokens, 200), submit(&vec![5; 600], 5));
    let (seen, e) = fails(long).await;
    assert!(seen > 490 && e.is_memory() && e.to_string().contains("512"), "{seen}: {e}");
    assert_eq!(answer(short).await.0, alone);
    // It waits for pages while there are others, then there are none for it.
    let (seen, e) = fails(other).await;
    assert!(seen == 0 && e.is_memory(), "{seen}: {e}");
    // Three that fit one by one, not together.
    let text = engine.card().tokenizer.encode("The fox ran and ran. ", true).unwrap();
    let three: Vec<Events> = (0..3).map(|i| submit(&text[i..].to_vec(), 220)).collect();
    for events in three {
        assert_eq!(answer(events).await.0.len(), 220);
    }
    assert!(engine.load().preempted > 0 && engine.load().cache_total == 4, "{:?}", engine.load());
    assert_eq!(answer(submit(&tokens, 20)).await.0.len(), 20);
}

#[tokio::test]
async fn clients_have_their_turn() {
    let (_, engine) = engine(with_slots(1));
    let tokens = engine.card().tokenizer.encode("Once upon a time", true).unwrap();
    let submit = |client: u64| {
        let options = greedy(30);
        engine.submit(Request { tokens: tokens.clone(), options, client, ..Request::default() }).unwrap()
    };
    // One client asks twenty things before the others ask one each.
    let many: Vec<Events> = (0..20).map(|_| submit(1)).collect();
    let few = [submit(2), submit(3)];
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for (name, events) in many.into_iter().map(|e| (1, e)).chain(few.into_iter().map(|e| (2, e))) {
        let order = order.clone();
        tasks.push(tokio::spawn(async move {
            answer(events).await;
            order.lock().unwrap().push(name);
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let order = order.lock().unwrap();
    let last = order.iter().rposition(|name| *name == 2).unwrap();
    assert!(last <= 5, "{order:?}");
}
