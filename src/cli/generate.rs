//! `unimlx generate`: a text and its continuation.

use super::args::GenerateArgs;
use super::model::{checkpoint, complete, load, options};
use super::terminal::{Status, bytes, say};
use serde_json::json;
use std::io::{ErrorKind, IsTerminal, Read};
use std::ops::ControlFlow;
use unimlx::{Chat, Checkpoint, Device, Error, FinishReason, Generator, Result, Stats, Tokenizer};

/// What the shipped model is asked when nothing else is said.
const STORY: &str = "Once upon a time";

/// Streams the continuation to standard output, figures to standard error.
pub(crate) fn generate(args: &GenerateArgs) -> Result<()> {
    let checkpoint = checkpoint(args.model.model.as_deref())?;
    let (tokenizer, ids) = prompt(args, &checkpoint)?;
    let model = load(&args.model, &checkpoint)?;
    let mut options = options(&model, &args.sampling, args.max_tokens);
    options.ignore_eos = args.ignore_eos;

    let status = Status::new();
    let mut generator = Generator::with_kinds(&model, &args.sampling.kv.kinds);
    let known = match &args.prompt_cache {
        Some(file) if file.exists() => generator.load_prompt(file)?,
        _ => 0,
    };
    generator.prompt_with(&ids, options, &mut |p| {
        status.show(&format!("reading {} of {} tokens", p.done, p.total));
        ControlFlow::Continue(())
    })?;
    status.clear();
    let more = known == 0 || generator.stats().cached_tokens + 1 < ids.len();
    if let Some(file) = args.prompt_cache.as_ref().filter(|_| more) {
        generator.save_prompt(file)?;
    }

    let mut text = None;
    if let Some(tokenizer) = &tokenizer {
        let mut all = String::new();
        if !args.json && args.tokens.is_empty() && !args.chat {
            say(&tokenizer.decode(&ids, true)?)?;
        }
        for piece in generator.text(tokenizer) {
            let piece = piece?;
            if !args.json {
                say(&piece)?;
            }
            all += &piece;
        }
        text = Some(all);
    } else {
        for token in &mut generator {
            let token = token?;
            if !args.json {
                say(&format!("{token} "))?;
            }
        }
    }

    let (stats, reason) = (generator.stats(), generator.finish_reason());
    if args.json {
        let object = json!({
            "ids": generator.tokens()[ids.len()..],
            "text": text,
            "finish_reason": match reason { Some(FinishReason::Stop) => "stop", _ => "length" },
            "prompt_tokens": ids.len(),
            "cached_tokens": stats.cached_tokens,
            "prompt_tokens_per_second": stats.prompt_rate(),
            "generation_tokens_per_second": stats.generation_rate(),
            "peak_memory_bytes": stats.peak_bytes,
            "device": model.device().name(),
        });
        say(&format!("{object}\n"))
    } else {
        say("\n")?;
        eprintln!("{}", figures(&stats, model.device()));
        Ok(())
    }
}

/// The prompt as tokens, and the tokenizer unless ids were given to a folder that has none.
fn prompt(args: &GenerateArgs, checkpoint: &Checkpoint) -> Result<(Option<Tokenizer>, Vec<u32>)> {
    if !args.tokens.is_empty() {
        return Ok((checkpoint.tokenizer().ok(), args.tokens.clone()));
    }
    let tokenizer = complete(checkpoint.tokenizer())?;
    let mut text = text(args)?;
    if args.chat {
        let template = checkpoint.chat_template()?;
        let template =
            template.ok_or_else(|| Error::unsupported("--chat: the model has no chat template"))?;
        let messages = [json!({ "role": "user", "content": text })];
        let chat = Chat { messages: &messages, add_generation_prompt: true, ..Chat::default() };
        text = template.render(&chat)?;
    }
    let context = checkpoint.config().context_length().unwrap_or(usize::MAX);
    let (ids, all) = tokenizer.encode_within(&text, !args.chat, context)?;
    if !all {
        let n = ids.len();
        return Err(Error::input(format!(
            "the prompt has at least {n} tokens, the model's context {context}"
        )));
    }
    if ids.is_empty() {
        return Err(Error::input("the prompt is empty"));
    }
    Ok((Some(tokenizer), ids))
}

fn text(args: &GenerateArgs) -> Result<String> {
    let read = |name: &str, source: &mut dyn Read| {
        let mut text = String::new();
        source.read_to_string(&mut text).map(|_| text).map_err(|e| match e.kind() {
            ErrorKind::InvalidData => Error::input(format!("{name}: the prompt is not UTF-8 text")),
            _ => Error::io(format!("{name}: {e}")),
        })
    };
    let mut stdin = std::io::stdin();
    match (&args.file, args.prompt.as_deref()) {
        (Some(path), _) if path.as_os_str() != "-" => {
            let name = path.display().to_string();
            let mut file = std::fs::File::open(path).map_err(|e| Error::io(format!("{name}: {e}")))?;
            read(&name, &mut file)
        }
        (Some(_), _) | (None, Some("-")) => read("standard input", &mut stdin),
        (None, Some(text)) => Ok(text.to_string()),
        (None, None) if args.model.model.is_none() => Ok(STORY.to_string()),
        (None, None) if !stdin.is_terminal() => read("standard input", &mut stdin),
        (None, None) => Err(Error::input("no prompt: say -p TEXT, -f FILE or --tokens 1,2,3")),
    }
}

/// What it cost, in one line per phase.
pub(super) fn figures(stats: &Stats, device: Device) -> String {
    let beside = if device == Device::CPU { " beside the weights" } else { "" };
    format!(
        "prompt: {} tokens, {:.1} tokens/s\ngeneration: {} tokens, {:.1} tokens/s\npeak memory: {}{beside}",
        stats.prompt_tokens,
        stats.prompt_rate(),
        stats.generated_tokens,
        stats.generation_rate(),
        bytes(stats.peak_bytes)
    )
}
