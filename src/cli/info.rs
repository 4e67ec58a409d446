//! `unimlx info`: what this machine offers, what was chosen, what was switched off.

use super::args::InfoArgs;
use super::model::checkpoint;
use super::terminal::{bytes, say};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use unimlx::{Error, Fit, Gpu, KvKind, Model, Result};

/// Prints a table or, with `--json`, one object.
pub(crate) fn info(args: &InfoArgs) -> Result<()> {
    let cpu = json!({ "simd": unimlx::simd_name(), "threads": unimlx::threads() });
    let gpu = match Gpu::shared() {
        Ok(gpu) => describe(&gpu, args)?,
        Err(e) => json!({ "missing": e.to_string() }),
    };
    let mut all = json!({ "version": env!("CARGO_PKG_VERSION"), "gpu": gpu, "cpu": cpu });
    if let Some(folder) = &args.model {
        all["model"] = model(folder)?;
    }
    if args.json { say(&format!("{all:#}\n")) } else { say(&table(&all)) }
}

fn describe(gpu: &std::sync::Arc<Gpu>, args: &InfoArgs) -> Result<Value> {
    let (info, caps) = (gpu.info(), gpu.caps());
    let mut all = json!({
        "adapter": info.name,
        "kind": format!("{:?}", info.device_type),
        "backend": info.backend.to_string(),
        "driver": format!("{} {}", info.driver, info.driver_info).trim(),
        "tiers": caps.tiers().iter().map(|t| t.name()).collect::<Vec<_>>(),
        "subgroup": caps.subgroups.map(|(least, most)| json!([least, most])),
        "fast_device": caps.fast_device,
        "memory": gpu.memory_kind(),
        "memory_note": gpu.memory_note(),
        "limits": {
            "buffer": caps.max_buffer,
            "binding": caps.max_binding,
            "storage_buffers": caps.storage_buffers,
            "workgroup_memory": caps.workgroup_memory,
            "workgroup_size": caps.workgroup_size,
            "offset_alignment": caps.offset_alignment,
        },
        "switched_off": gpu.switched_off(),
        "tuned_shapes": unimlx::tuned_shapes(gpu),
    });
    if args.measure {
        all["upload_gb_s"] = json!((gpu.measure_upload()? * 10.0).round() / 10.0);
        let only = args.only.as_deref().unwrap_or("");
        let (tried, wrong) = unimlx::try_kernels(only)?;
        if tried == 0 {
            return Err(Error::input(format!(
                "--only {only}: no kernel or op on this GPU has this in its name"
            )));
        }
        all["kernels_tried"] = json!(tried);
        all["kernels_wrong"] = json!(wrong);
    }
    Ok(all)
}

/// What is in a folder.
fn model(folder: &Path) -> Result<Value> {
    let checkpoint = checkpoint(Some(folder))?;
    let config = checkpoint.config();
    let mut formats = BTreeSet::new();
    for module in checkpoint.names().filter_map(|name| name.strip_suffix(".weight")) {
        formats.insert(match checkpoint.quantization_of(module)? {
            Some(quantization) => quantization.to_string(),
            None => checkpoint.tensor(&format!("{module}.weight"))?.dtype().to_string(),
        });
    }
    let memory = unimlx::memory::host_memory();
    let kinds = KvKind::ALL.map(|kind| {
        let fit = Fit::of(&checkpoint, None, kind);
        let most = memory.map(|memory| fit.context_in(memory));
        json!({ "kv": kind.name(), "kv_bytes_per_token": fit.cache_per_token, "context_that_fits": most })
    });
    Ok(json!({
        "type": config.model_type, "layers": config.num_hidden_layers, "hidden": config.hidden_size,
        "heads": config.num_attention_heads, "kv_heads": config.num_key_value_heads,
        "head_dim": config.head_dim, "vocabulary": config.vocab_size,
        "weight_bytes": checkpoint.total_bytes(), "formats": formats,
        "context": Fit::of(&checkpoint, None, KvKind::F16).context_length,
        "chat_template": checkpoint.chat_template()?.is_some(), "kinds": kinds,
        "cannot_be_loaded": Model::check_config(config).err().map(|e| e.to_string()),
    }))
}

fn table(all: &Value) -> String {
    let mut text = format!("unimlx {}\n", all["version"].as_str().unwrap_or_default());
    let mut row = |name: &str, value: String| text.push_str(&format!("{name:<17} {value}\n"));
    let word = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_string);
    let list = |v: &Value| {
        let words: Vec<String> = v.as_array().into_iter().flatten().map(word).collect();
        if words.is_empty() { "nothing".to_string() } else { words.join(", ") }
    };
    let gpu = &all["gpu"];
    if let Some(reason) = gpu["missing"].as_str() {
        row("gpu", format!("none: {reason}"));
    } else {
        row("gpu", format!("{} ({}, {})", word(&gpu["adapter"]), word(&gpu["kind"]), word(&gpu["backend"])));
        row("driver", word(&gpu["driver"]));
        row("tiers", list(&gpu["tiers"]));
        if !gpu["subgroup"].is_null() {
            row("subgroup size", format!("{} to {}", gpu["subgroup"][0], gpu["subgroup"][1]));
        }
        row("memory", format!("{}: {}", word(&gpu["memory"]), word(&gpu["memory_note"])));
        let fast = gpu["fast_device"] == true;
        row("device", if fast { "fast: opened without robust buffer access" } else { "ordinary" }.into());
        if !gpu["upload_gb_s"].is_null() {
            row("upload", format!("{} GB/s", gpu["upload_gb_s"]));
            row("kernels", format!("{} tried; wrong: {}", gpu["kernels_tried"], list(&gpu["kernels_wrong"])));
        }
        let limits = &gpu["limits"];
        let size = |name: &str| bytes(limits[name].as_u64().unwrap_or(0));
        row("buffer", format!("at most {}, bindings {}", size("buffer"), size("binding")));
        row(
            "workgroup",
            format!("{} invocations, {} of memory", limits["workgroup_size"], size("workgroup_memory")),
        );
        row("switched off", list(&gpu["switched_off"]));
        row(
            "tuned",
            match gpu["tuned_shapes"].as_u64() {
                Some(n) if n > 0 => format!("{n} shapes, see `unimlx bench --tune`"),
                _ => "nothing: kernels are arranged by their tables".to_string(),
            },
        );
    }
    row("cpu", format!("{}, {} threads", word(&all["cpu"]["simd"]), all["cpu"]["threads"]));
    let model = &all["model"];
    if !model.is_null() {
        let [layers, hidden, heads, kv_heads, d] =
            ["layers", "hidden", "heads", "kv_heads", "head_dim"].map(|field| &model[field]);
        let shape = format!("{layers} layers of {hidden}, {heads} heads over {kv_heads} of {d}");
        row("model", format!("{}, {shape}, vocabulary {}", word(&model["type"]), model["vocabulary"]));
        if let Some(obstacle) = model["cannot_be_loaded"].as_str() {
            row("cannot be loaded", obstacle.to_string());
        }
        let size = bytes(model["weight_bytes"].as_u64().unwrap_or(0));
        row("weights", format!("{size}: {}", list(&model["formats"])));
        row("context", format!("{} tokens", model["context"]));
        row("chat template", if model["chat_template"] == true { "there is one" } else { "none" }.into());
        for kind in model["kinds"].as_array().into_iter().flatten() {
            let most = kind["context_that_fits"].as_u64().map(|most| format!("; {most} tokens fit"));
            let each = bytes(kind["kv_bytes_per_token"].as_u64().unwrap_or(0));
            row(
                &format!("kv {}", word(&kind["kv"])),
                format!("{each} per token{}", most.unwrap_or_default()),
            );
        }
    }
    text
}
