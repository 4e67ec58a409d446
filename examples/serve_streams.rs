//! Tokens per second of one stream and of eight through the server's scheduler, greedy, without HTTP.
//!
//! `cargo run --release --example serve_streams -- [-m DIR | --config llama-8b --quant 4bit] [-n TOKENS] [-p PROMPT]
//! [--streams 1,8]`. A `--config` is a published model's shape with random weights, as in `unimlx bench`.

use std::collections::HashMap;
use std::time::Instant;
use unimlx::serve::{Card, Engine, EngineOptions, Event, ModelEngine, Refusal, Request};
use unimlx::{Checkpoint, Error, GenerateOptions, LoadOptions, Model, Result};

const FLAGS: [&str; 6] = ["-m", "--config", "--quant", "-n", "-p", "--streams"];

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut flags = HashMap::new();
    for pair in args.chunks(2) {
        match pair {
            [name, value] if FLAGS.contains(&name.as_str()) => flags.insert(name.as_str(), value.as_str()),
            _ => {
                return Err(Error::input(format!(
                    "{}: expected {} with a value",
                    pair.join(" "),
                    FLAGS.join(", ")
                )));
            }
        };
    }
    let flag = |name: &str| flags.get(name).copied();
    let number = |name: &str, text: &str| {
        text.parse::<usize>().map_err(|e| Error::input(format!("{name} {text}: {e}")))
    };
    let (tokens, prompt) =
        (number("-n", flag("-n").unwrap_or("256"))?, number("-p", flag("-p").unwrap_or("16"))?);
    let streams = flag("--streams").unwrap_or("1,8").split(',').map(|n| number("--streams", n));
    let streams = streams.collect::<Result<Vec<usize>>>()?;

    // Text plays no part here: ids go in and come out.
    let folder = flag("-m").unwrap_or("examples/storyteller");
    let checkpoint = Checkpoint::open(folder)?;
    let model = match flag("--config") {
        Some(name) => {
            Model::synthetic(&unimlx::synthetic_config(name, flag("--quant"))?, LoadOptions::default())?
        }
        None => Model::from_checkpoint(&checkpoint, LoadOptions::default())?,
    };
    let card = Card {
        names: vec!["model".to_owned()],
        tokenizer: checkpoint.tokenizer()?,
        template: None,
        context_length: model.context_length(),
        vocab_size: model.config().vocab_size,
        defaults: GenerateOptions::default(),
    };
    let vocab = card.vocab_size as u32;
    let engine = ModelEngine::new(&model, card, EngineOptions::default())?;
    let mut first = None;
    // Each twice: the first round compiles kernels and makes room.
    for (i, n) in streams.iter().flat_map(|&n| [n; 2]).enumerate() {
        let submit = |stream: usize| {
            let options =
                GenerateOptions { max_tokens: Some(tokens), ignore_eos: true, ..GenerateOptions::default() };
            let ids = (0..prompt as u32).map(|i| (i * 7919 + stream as u32 * 104_729 + 11) % vocab).collect();
            engine.submit(Request { tokens: ids, options, ..Request::default() })
        };
        let begin = Instant::now();
        let all = (0..n).map(submit).collect::<Result<Vec<_>, _>>().map_err(refused)?;
        let mut generated = 0;
        for mut events in all {
            while let Some(event) = events.next().await {
                match event {
                    Event::Token { .. } => generated += 1,
                    Event::Failed(e) => return Err(e),
                    _ => {}
                }
            }
        }
        let rate = f64::from(generated) / begin.elapsed().as_secs_f64();
        if i % 2 == 1 {
            let first = *first.get_or_insert(rate);
            println!(
                "{n} streams: {generated} tokens, {rate:.1} tokens/s, {:.2} times the first",
                rate / first
            );
        }
    }
    Ok(())
}

fn refused(refusal: Refusal) -> Error {
    match refusal {
        Refusal::Full(_) => Error::input("more streams than the queue has room for"),
        Refusal::Closed => Error::cancelled("the engine is going away"),
        Refusal::Invalid(e) | Refusal::Failed(e) => e,
    }
}
