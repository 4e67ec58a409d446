//! `unimlx fit`: what a model needs, before it is loaded.

use super::args::FitArgs;
use super::model::checkpoint;
use super::terminal::{bytes, say};
use serde_json::json;
use unimlx::{Error, Fit, KvKind, Model, Result};

/// Prints weights, cache per kind and scratch for a context, and whether they fit.
pub(crate) fn fit(args: &FitArgs) -> Result<()> {
    if let Some(gb) = args.memory.filter(|gb| gb.is_nan() || *gb <= 0.0) {
        return Err(Error::input(format!("--memory {gb}: expected a positive number of GB")));
    }
    let memory = args.memory.map(|gb| (gb * 1e9) as u64).or_else(unimlx::memory::host_memory);
    let (kinds, obstacle) = if let Some(name) = &args.config {
        let config = unimlx::synthetic_config(name, args.quant.as_deref())?;
        (KvKind::ALL.map(|kind| (kind, Fit::of_config(&config, args.context, kind))), None)
    } else {
        let checkpoint = checkpoint(args.model.as_deref())?;
        let kinds = KvKind::ALL.map(|kind| (kind, Fit::of(&checkpoint, args.context, kind)));
        (kinds, Model::check_config(checkpoint.config()).err().map(|e| e.to_string()))
    };
    let (context, own) = (kinds[0].1.context, kinds[0].1.context_length);
    if args.json {
        let rows = kinds.iter().map(|(kind, fit)| {
            json!({
                "kv": kind.name(),
                "kv_bytes": fit.cache,
                "kv_bytes_per_token": fit.cache_per_token,
                "total_bytes": fit.total(),
                "context_that_fits": memory.map(|m| fit.context_in(m)),
            })
        });
        let object = json!({
            "context": context,
            "model_context": own,
            "weight_bytes": kinds[0].1.weights,
            "scratch_bytes": kinds[0].1.scratch,
            "memory_bytes": memory,
            "cannot_be_loaded": obstacle,
            "kinds": rows.collect::<Vec<_>>(),
        });
        return say(&format!("{object:#}\n"));
    }
    let beyond = if context > own { format!(", but the model's own limit is {own}") } else { String::new() };
    let mut text = format!(
        "weights           {}\nscratch           {}\ncontext           {context} tokens{beyond}\n",
        bytes(kinds[0].1.weights),
        bytes(kinds[0].1.scratch)
    );
    match memory {
        Some(memory) => text += &format!("memory            {}\n", bytes(memory)),
        None => text += "memory            unknown: say --memory GB\n",
    }
    text += "\nkv     per token   cache       total       fits   context that fits\n";
    for (kind, fit) in &kinds {
        let verdict = memory.map_or("?", |m| if fit.total() <= m { "yes" } else { "no" });
        let most = memory.map_or("?".to_string(), |m| fit.context_in(m).to_string());
        text += &format!(
            "{:<6} {:<11} {:<11} {:<11} {verdict:<6} {most}\n",
            kind.name(),
            bytes(fit.cache_per_token),
            bytes(fit.cache),
            bytes(fit.total())
        );
    }
    if let Some(obstacle) = obstacle {
        text += &format!("\nIt cannot be loaded: {obstacle}\n");
    }
    say(&text)
}
