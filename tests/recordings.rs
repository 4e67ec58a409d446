//! Plans as text: the GPU work of one token and of a prompt, for adapters of every kind, as committed in
//! tests/recordings. A change of a kernel or a rule shows here as a diff to read;
//! `UNIMLX_WRITE_RECORDINGS=1 cargo test --test recordings` writes it.

use std::path::Path;
use unimlx::internals::or_skip;
use unimlx::{Caps, Device, Gpu, LoadOptions, Model};

/// Adapters as data, after what is sold.
fn adapters() -> [(&'static str, Caps); 3] {
    let modern = Caps {
        f16: true,
        subgroups: Some((32, 32)),
        workgroup_memory: 32 << 10,
        workgroup_size: 1024,
        storage_buffers: 30,
        max_binding: 1 << 31,
        ..Caps::BASELINE
    };
    let nvidia =
        Caps { dot4: true, coop16: true, fragments: true, workgroup_memory: 48 << 10, ..modern.clone() };
    let apple = Caps { coop8: true, unified: true, ..modern };
    [("baseline", Caps::BASELINE), ("nvidia", nvidia), ("apple", apple)]
}

#[test]
fn plans_are_what_was_committed() {
    if or_skip(Gpu::shared()).is_none() {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let write = std::env::var("UNIMLX_WRITE_RECORDINGS").is_ok_and(|v| v == "1");
    let mut different = Vec::new();
    for name in ["llama", "llama-mlx-q4g64", "mistral", "qwen2", "qwen3"] {
        let options = LoadOptions { device: Some(Device::GPU), ..LoadOptions::default() };
        let model = Model::load(root.join("golden").join(name).join("model"), options).unwrap();
        // What differs between architectures shows on one adapter.
        let all = name.starts_with("llama");
        for (adapter, caps) in adapters().into_iter().filter(|(adapter, _)| all || *adapter == "nvidia") {
            let mut text = String::new();
            for (t, fuse) in [(1, true), (1, false), (40, true)] {
                let recording = model.step_recording_for(t, &caps, fuse).unwrap();
                let fused = if fuse { "fused" } else { "unfused" };
                text += &format!("# {t} tokens, {fused}: {} steps\n{recording}\n", recording.lines().count());
            }
            let path = root.join("recordings").join(format!("{name}.{adapter}.txt"));
            if write {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(&path, &text).unwrap();
            }
            if std::fs::read_to_string(&path).ok().as_deref() != Some(&text) {
                different.push(format!("{}:\n{text}", path.display()));
            }
        }
    }
    assert!(
        different.is_empty(),
        "plans changed; if that is meant, write them anew: {}",
        different.join("\n")
    );
}
