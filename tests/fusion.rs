//! What fusion is for: few dispatches per token, and the same answers.

use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use unimlx::internals::or_skip;
use unimlx::{
    Device, GenerateOptions, Generator, Gpu, KvKind, LoadOptions, Model, logits, logits_after, set_fusion,
};

/// Fusion is one switch for the process, which decides how models are loaded, too: tests take turns.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(|e| e.into_inner())
}

const MODELS: [&str; 4] = ["llama", "mistral", "qwen2", "qwen3"];

/// Loads a fixture on the GPU, if there is one.
fn load(name: &str) -> Option<Model> {
    or_skip(Gpu::shared())?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name).join("model");
    let options = LoadOptions { device: Some(Device::GPU), ..LoadOptions::default() };
    Some(Model::load(folder, options).unwrap())
}

/// Runs with and without fusion, in a test whose [`turn`] it is.
fn both<T>(run: impl Fn() -> T) -> (T, T) {
    let fused = run();
    set_fusion(false);
    let plain = run();
    set_fusion(true);
    (fused, plain)
}

#[test]
fn a_layer_is_six_dispatches() {
    let _turn = turn();
    for name in MODELS {
        let Some(model) = load(name) else { return };
        let layers = model.config().num_hidden_layers;
        let (fused, plain) = both(|| model.step_recording(1).unwrap());
        let steps = |recording: &str| recording.lines().count();
        assert!(steps(&fused) <= 6 * layers + 3, "{name}:\n{fused}");
        assert!(steps(&plain) >= 12 * layers, "{name}:\n{plain}");
        assert_eq!(fused.matches("attend ").count(), layers, "{name}:\n{fused}");
    }
}

const PACKED: [KvKind; 4] = [KvKind::Int8, KvKind::K8V4, KvKind::Int4, KvKind::K4V3];

#[test]
fn a_layer_over_a_packed_cache_is_six_dispatches_too() {
    let _turn = turn();
    for name in MODELS {
        let Some(model) = load(name) else { return };
        let layers = model.config().num_hidden_layers;
        for kind in PACKED {
            let recording = model.step_recording_with(1, kind).unwrap();
            assert!(recording.lines().count() <= 6 * layers + 3, "{name}, {kind}:\n{recording}");
            assert_eq!(recording.matches("attend_packed ").count(), layers, "{name}, {kind}:\n{recording}");
        }
    }
}

#[test]
fn fusion_over_a_packed_cache_does_not_change_logits() {
    let _turn = turn();
    let Some(gpu) = or_skip(Gpu::shared()) else { return };
    // A value on the edge between two codes may fall to either side, the further the fewer codes there are. Matrix units,
    // which multiply halves, round logits by 1e-3, and are off by up to 8e-3, 2e-2, 6e-2 and 5e-2; coding itself by 0.01 to
    // 0.3.
    let most = match gpu.caps().has_matrix_units() {
        true => [1e-2, 3e-2, 9e-2, 9e-2],
        false => [1e-2, 3e-2, 3e-2, 3e-2],
    };
    for ((name, kind), most) in MODELS.into_iter().zip(PACKED).zip(most) {
        let Some(model) = load(name) else { return };
        let ids: Vec<u32> = (0..30).map(|i| (7 * i + 3) % 90).collect();
        // As many tokens of one sequence as come together; and one by one, after some that are there.
        for n in [1, 2, 8] {
            let (fused, plain) = both(|| {
                let one_by_one = logits_after(&model, &ids[..30 - n], &ids[30 - n..], kind, kind).unwrap();
                [one_by_one, logits(&model, &ids[..n], &[kind]).unwrap()].concat()
            });
            let square = |x: f32| f64::from(x).powi(2);
            let error: f64 = fused.iter().zip(&plain).map(|(a, b)| square(a - b)).sum();
            let size: f64 = plain.iter().map(|b| square(*b)).sum();
            let off = (error / size).sqrt();
            assert!(off < most, "{name}, {kind}, {n} tokens: {off:.1e}");
        }
    }
}

/// However many sequences, and however weights are stored: each matrix is read by one dispatch.
#[test]
fn up_to_eight_rows_are_one_pass_over_the_weights() {
    let _turn = turn();
    for name in fixtures() {
        let Some(model) = load(&name) else { return };
        // Of a layer: q, k and v (apart where they are stored differently), o, gate and up, down; then the head.
        let parts = if name.contains("mixed") { 7 } else { 4 };
        let most = parts * model.config().num_hidden_layers + 1;
        for t in 1..=8 {
            let recording = model.step_recording(t).unwrap();
            let products = recording.lines().filter(|step| step.starts_with("mat")).count();
            assert!(products <= most, "{name}, {t} rows: {products} products\n{recording}");
        }
    }
}

#[test]
fn layers_that_are_stored_differently_are_fused_too() {
    let _turn = turn();
    let Some(model) = load("llama-mlx-mixed46") else { return };
    let recording = model.step_recording(1).unwrap();
    assert_eq!(recording.matches("attend ").count(), model.config().num_hidden_layers, "{recording}");
}

#[test]
fn fusion_does_not_change_logits() {
    let _turn = turn();
    for name in MODELS {
        let Some(model) = load(name) else { return };
        let ids: Vec<u32> = (0..8).map(|i| 7 * i + 3).collect();
        // As many tokens of one sequence as come together.
        for n in [1, 2, 5, 8] {
            let (fused, plain) = both(|| logits(&model, &ids[..n], &[]).unwrap());
            let square = |x: f32| f64::from(x).powi(2);
            let error: f64 = fused.iter().zip(&plain).map(|(a, b)| square(a - b)).sum();
            let size: f64 = plain.iter().map(|b| square(*b)).sum();
            assert!((error / size).sqrt() < 1e-3, "{name}, {n} tokens: {:.1e}", (error / size).sqrt());
        }
    }
}

/// Every fixture that has a model.
fn fixtures() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let folders = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    let models = folders.filter(|folder| folder.join("model/config.json").exists());
    models.map(|folder| folder.file_name().unwrap().to_string_lossy().into_owned()).collect()
}

#[test]
fn fusion_does_not_change_greedy_tokens() {
    let _turn = turn();
    let names = fixtures();
    assert!(names.len() >= 18, "{names:?}");
    for name in names {
        let Some(model) = load(&name) else { return };
        // In every fixture the likeliest token is ahead by 1% of what logits are, ten times what adapters round them by.
        let ids: Vec<u32> = (0..11).map(|i| 33 * i + 1).collect();
        let options =
            GenerateOptions { max_tokens: Some(12), ignore_eos: true, ..GenerateOptions::default() };
        let (fused, plain) = both(|| {
            let mut generator = Generator::new(&model, None);
            generator.prompt(&ids, options.clone()).unwrap();
            generator.map(Result::unwrap).collect::<Vec<u32>>()
        });
        assert_eq!(fused, plain, "{name}");
    }
}
