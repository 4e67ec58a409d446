//! `unimlx chat`: a conversation, one line at a time.

use super::args::ChatArgs;
use super::generate::figures;
use super::model::{checkpoint, complete, load, options};
use super::terminal::{Status, say};
use rustyline::error::ReadlineError;
use serde_json::{Value, json};
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use unimlx::{Chat, Error, Generator, Result};

const HELP: &str =
    "/clear forgets the conversation, /stats shows figures of the last answer, /exit or Ctrl-D ends.";

/// Reads lines, streams answers. The cache keeps the conversation: only what is new is read again.
pub(crate) fn chat(args: &ChatArgs) -> Result<()> {
    let checkpoint = checkpoint(args.model.model.as_deref())?;
    let tokenizer = complete(checkpoint.tokenizer())?;
    let template = checkpoint.chat_template()?;
    let template =
        template.ok_or_else(|| Error::unsupported("the model has no chat template; try generate"))?;
    let model = load(&args.model, &checkpoint)?;
    options(&model, &args.sampling, args.max_tokens).check()?;
    let mut generator = Generator::with_kinds(&model, &args.sampling.kv.kinds);
    generator.cache().check()?;

    let stopped = Arc::new(AtomicBool::new(false));
    let flag = stopped.clone();
    ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed))
        .map_err(|e| Error::io(format!("Ctrl-C cannot be watched: {e}")))?;
    let mut editor = rustyline::DefaultEditor::new().map_err(|e| Error::io(format!("line editor: {e}")))?;
    let system = || args.system.iter().map(|s| json!({ "role": "system", "content": s })).collect();
    let mut messages: Vec<Value> = system();
    let (first, context) = (messages.len(), model.context_length());
    let room = context - args.max_tokens.min(context / 4);
    eprintln!("{HELP}");

    loop {
        let line = match editor.readline("> ") {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return Ok(()),
            Err(ReadlineError::Io(e)) if e.kind() == ErrorKind::InvalidData => {
                return Err(Error::input("standard input: not UTF-8 text"));
            }
            Err(e) => return Err(Error::io(format!("line editor: {e}"))),
        };
        match line.trim() {
            "" => continue,
            "/exit" | "/quit" => return Ok(()),
            "/help" => eprintln!("{HELP}"),
            "/clear" => messages = system(),
            "/stats" => eprintln!("{}", figures(&generator.stats(), model.device())),
            text => {
                // History is a convenience; an answer matters more.
                let _ = editor.add_history_entry(text);
                messages.push(json!({ "role": "user", "content": text }));
                let tokens = |messages: &[Value]| {
                    let chat = Chat { messages, add_generation_prompt: true, ..Chat::default() };
                    template.render(&chat).and_then(|prompt| tokenizer.encode(&prompt, false))
                };
                let ids = fitting(&mut messages, first, room, tokens)?;
                stopped.store(false, Ordering::Relaxed);
                let answer = answer(&mut generator, &tokenizer, &ids, args, &model, &stopped);
                match answer {
                    Ok(Some(answer)) => messages.push(json!({ "role": "assistant", "content": answer })),
                    Ok(None) => drop(messages.pop()),
                    Err(e) if e.is_input() => {
                        messages.pop();
                        eprintln!("unimlx: {e}; /clear forgets the conversation");
                    }
                    Err(e) => return Err(e),
                }
            }
        }
    }
}

/// The conversation as tokens. Where it leaves no room for an answer its oldest messages go, those from `first` on.
fn fitting(
    messages: &mut Vec<Value>,
    first: usize,
    room: usize,
    tokens: impl Fn(&[Value]) -> Result<Vec<u32>>,
) -> Result<Vec<u32>> {
    let before = messages.len();
    let mut ids = tokens(messages)?;
    while ids.len() > room && messages.len() > first + 2 {
        messages.drain(first..first + 2);
        ids = tokens(messages)?;
    }
    let gone = before - messages.len();
    if gone > 0 {
        eprintln!("The context is full: the {gone} oldest messages are forgotten.");
    }
    Ok(ids)
}

/// One answer, as far as it came: Ctrl-C ends it and keeps what was said. `None` if it came before that.
fn answer(
    generator: &mut Generator,
    tokenizer: &unimlx::Tokenizer,
    ids: &[u32],
    args: &ChatArgs,
    model: &unimlx::Model,
    stopped: &AtomicBool,
) -> Result<Option<String>> {
    let status = Status::new();
    let read = generator.prompt_with(ids, options(model, &args.sampling, args.max_tokens), &mut |p| {
        status.show(&format!("reading {} of {} tokens", p.done, p.total));
        if stopped.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    status.clear();
    match read {
        Err(e) if e.is_cancelled() => return Ok(None),
        other => other?,
    }
    let mut all = String::new();
    for piece in generator.text(tokenizer) {
        let piece = piece?;
        say(&piece)?;
        all += &piece;
        if stopped.load(Ordering::Relaxed) {
            break;
        }
    }
    say("\n")?;
    Ok(Some(all))
}
