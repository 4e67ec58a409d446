//! Loads a model folder and streams a continuation.
//!
//! `cargo run --release --example generate -- [folder] [prompt]`

use std::io::Write;
use unimlx::{Checkpoint, GenerateOptions, Generator, LoadOptions, Model};

fn main() -> unimlx::Result<()> {
    let mut args = std::env::args().skip(1);
    let folder =
        args.next().unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/examples/storyteller").into());
    let prompt = args.next().unwrap_or_else(|| "Once upon a time".into());

    let checkpoint = Checkpoint::open(&folder)?;
    let tokenizer = checkpoint.tokenizer()?;
    let model = Model::from_checkpoint(&checkpoint, LoadOptions::default())?; // on the GPU if there is one
    let mut generator = Generator::new(&model, None);
    let options = GenerateOptions { max_tokens: Some(400), temperature: 0.7, ..GenerateOptions::default() };
    generator.prompt(&tokenizer.encode(&prompt, true)?, options)?;

    print!("{prompt}");
    for piece in generator.text(&tokenizer) {
        print!("{}", piece?);
        // A stream is for people who watch.
        let _ = std::io::stdout().flush();
    }
    println!("\n[{:.0} tokens/s on the {}]", generator.stats().generation_rate(), model.device());
    Ok(())
}
