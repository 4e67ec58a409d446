//! `unimlx logits`: the raw scores of a prompt, for comparing engines.

use super::args::LogitsArgs;
use super::model::{checkpoint, load};
use super::terminal::say;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;
use unimlx::{Error, Result};

/// Writes tensor `logits`, f32 `[n_tokens, vocab]`.
pub(crate) fn logits(args: &LogitsArgs) -> Result<()> {
    // Before the work, not after it.
    let path = args.output.display();
    let folder = args.output.parent().filter(|p| !p.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|p| !p.is_dir()) {
        return Err(Error::io(format!("{path}: there is no folder {}", folder.display())));
    }
    if args.output.is_dir() {
        return Err(Error::io(format!("{path}: is a folder")));
    }
    let checkpoint = checkpoint(args.model.model.as_deref())?;
    let model = load(&args.model, &checkpoint)?;
    let values = unimlx::logits(&model, &args.tokens, &args.kv.kinds)?;
    let shape = vec![args.tokens.len(), model.config().vocab_size];
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let failed = |e: &dyn std::fmt::Display| Error::io(format!("{path}: {e}"));
    let view = TensorView::new(Dtype::F32, shape.clone(), &bytes).map_err(|e| failed(&e))?;
    let bytes = safetensors::serialize([("logits", view)], None).map_err(|e| failed(&e))?;
    // Into what is there, which may be a pipe.
    std::fs::write(&args.output, bytes).map_err(|e| failed(&e))?;
    if args.json {
        let object = json!({ "output": args.output, "shape": shape, "device": model.device().name() });
        return say(&format!("{object}\n"));
    }
    Ok(())
}
