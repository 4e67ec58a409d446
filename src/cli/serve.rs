//! `unimlx serve`: the OpenAI API on a port.

use super::args::ServeArgs;
use super::model::{checkpoint, complete, load};
use std::net::SocketAddr;
use std::sync::Arc;
use unimlx::serve::{Card, EngineOptions, ModelEngine, Options, Server, StopSignals};
use unimlx::{Error, GenerateOptions, Result};

/// Serves until SIGTERM or Ctrl-C; a second one ends at once.
pub(crate) fn serve(args: &ServeArgs) -> Result<()> {
    let keys = keys(args)?;
    let checkpoint = checkpoint(args.model.model.as_deref())?;
    let tokenizer = complete(checkpoint.tokenizer())?;
    let template = checkpoint.chat_template()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Error::io(format!("no threads to serve from: {e}")))?;
    let model = load(&args.model, &checkpoint)?;
    let context = model.context_length().min(args.context.unwrap_or(usize::MAX));
    let card = Card {
        names: names(args),
        tokenizer,
        template,
        context_length: context,
        vocab_size: model.config().vocab_size,
        defaults: GenerateOptions::suggested(model.generation_config()),
    };
    let mut engine = EngineOptions::default();
    (engine.slots, engine.queue) = (args.parallel, args.queue);
    (engine.kinds, engine.prefix_cache) = (args.kv.kinds.clone(), !args.no_prefix_cache);
    let engine = Arc::new(ModelEngine::new(&model, card, engine)?);
    let mut options = Options::default();
    options.api_keys = keys;
    options.hosts = (!args.allowed_host.is_empty()).then(|| args.allowed_host.clone());
    options.cors_origins.clone_from(&args.cors_origin);
    options.any_model = args.any_model;
    options.body_limit = args.body_limit << 20;
    options.kept_responses = args.keep_responses << 20;
    options.drain = std::time::Duration::from_secs(args.shutdown_timeout);

    let outcome = runtime.block_on(async {
        let at = SocketAddr::new(args.host, args.port);
        let mut signals = StopSignals::watch()?;
        let server = Server::bind(engine, at, args.insecure_no_auth, options)?;
        eprintln!("unimlx: serving {} at http://{}", model_name(args), server.address()?);
        let (asked, ask) = tokio::sync::oneshot::channel();
        let stopped = async {
            signals.next().await;
            eprintln!("unimlx: stopping; answers have {} s to end", args.shutdown_timeout);
            let _ = asked.send(());
            signals.next().await;
        };
        tokio::select! {
            () = server.run(async { drop(ask.await) }) => {}
            () = stopped => {}
        }
        Ok(())
    });
    runtime.shutdown_background();
    outcome
}

fn model_name(args: &ServeArgs) -> String {
    let folder = args.model.model.as_deref().map(|path| path.canonicalize().unwrap_or(path.to_owned()));
    let name = folder.as_deref().and_then(|path| path.file_name());
    name.map_or("storyteller".to_owned(), |name| name.to_string_lossy().into_owned())
}

fn names(args: &ServeArgs) -> Vec<String> {
    if args.served_model_name.is_empty() { vec![model_name(args)] } else { args.served_model_name.clone() }
}

/// Keys from flags, the environment and a file with one in each line.
fn keys(args: &ServeArgs) -> Result<Vec<String>> {
    let mut keys = args.api_key.clone();
    if let Some(path) = &args.api_key_file {
        let text =
            std::fs::read_to_string(path).map_err(|e| Error::io(format!("{}: {e}", path.display())))?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let before = keys.len();
        keys.extend(lines.map(str::to_owned));
        if keys.len() == before {
            return Err(Error::input(format!("{}: there is no key in it", path.display())));
        }
    }
    Ok(keys)
}
