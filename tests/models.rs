//! Every architecture against the reference software: logits, greedy tokens, and that a cache changes
//! nothing. Needs the fixtures under `tests/golden`; `UNIMLX_GOLDEN` names a folder with more of them.

use safetensors::SafeTensors;
use serde_json::Value;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use unimlx::internals::or_skip;
use unimlx::{Device, GenerateOptions, Generator, Gpu, KvKind, LoadOptions, Model, logits};

struct Fixture {
    name: String,
    folder: PathBuf,
    golden: Value,
    tensors: Vec<u8>,
}

impl Fixture {
    fn open(folder: PathBuf) -> Self {
        let golden = std::fs::read(folder.join("golden.json")).unwrap();
        Self {
            name: folder.file_name().unwrap().to_string_lossy().into_owned(),
            golden: serde_json::from_slice(&golden).unwrap(),
            tensors: std::fs::read(folder.join("golden.safetensors")).unwrap(),
            folder,
        }
    }

    fn load(&self, device: Device) -> Model {
        let options = LoadOptions { device: Some(device), ..LoadOptions::default() };
        Model::load(self.folder.join("model"), options).unwrap()
    }

    /// `short` and, in most fixtures, `long`.
    fn prompts(&self) -> impl Iterator<Item = &str> {
        self.golden["authority"].as_object().unwrap().keys().map(String::as_str)
    }

    fn ids(&self, prompt: &str) -> Vec<u32> {
        u32s(&self.golden["prompts"][prompt]["ids"])
    }

    /// The authority's logits and the positions they belong to.
    fn logits(&self, prompt: &str) -> (Vec<f32>, Vec<usize>) {
        let authority = self.golden["authority"][prompt]["logits"].as_str().unwrap();
        let file = SafeTensors::deserialize(&self.tensors).unwrap();
        let tensor = file.tensor(&format!("{prompt}.{authority}")).unwrap();
        assert_eq!(tensor.dtype(), safetensors::Dtype::F32);
        let values = tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        let positions = match &self.golden["prompts"][prompt]["positions"] {
            Value::Array(list) => list.iter().map(|p| p.as_u64().unwrap() as usize).collect(),
            _ => (0..self.ids(prompt).len()).collect(),
        };
        (values.collect(), positions)
    }

    /// The authority's greedy tokens, and by how much each won.
    fn greedy(&self, prompt: &str) -> (Vec<u32>, Vec<f64>) {
        let authority = self.golden["authority"][prompt]["greedy"].as_str().unwrap();
        let run = &self.golden["greedy"][prompt][authority];
        let margins = run["margins"].as_array().unwrap().iter().map(|m| m.as_f64().unwrap());
        (u32s(&run["ids"]), margins.collect())
    }
}

fn u32s(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

/// Fixtures of architectures and formats that can be run.
fn fixtures() -> Vec<Fixture> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let more = std::env::var_os("UNIMLX_GOLDEN").map(PathBuf::from);
    let mut found: Vec<PathBuf> = Vec::new();
    for root in [Some(here), more].into_iter().flatten() {
        found.extend(std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()));
    }
    found.retain(|folder| folder.join("golden.json").is_file() && folder.join("model/config.json").is_file());
    found.sort();
    let known = |folder: &PathBuf| {
        let config = std::fs::read(folder.join("model/config.json")).unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        let affine = config["quantization"]["mode"].as_str().is_none_or(|mode| mode == "affine");
        affine && unimlx::model_types().any(|name| config["model_type"] == name)
    };
    let all: Vec<_> = found.into_iter().filter(known).map(Fixture::open).collect();
    for name in unimlx::model_types() {
        assert!(all.iter().any(|fixture| fixture.name == name), "no fixture tests/golden/{name}");
    }
    assert!(all.len() >= 18, "{} fixtures", all.len());
    all
}

/// Root mean square of the difference relative to that of the expectation.
fn rel_rms(got: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let squares = |x: f64| x * x;
    let error: f64 = got.iter().zip(expected).map(|(&a, &b)| squares(f64::from(a) - f64::from(b))).sum();
    let size: f64 = expected.iter().map(|&b| squares(f64::from(b))).sum();
    (error / size).sqrt()
}

/// A device with a kind of cache, and what it may be off by.
struct Route {
    device: Device,
    kind: KvKind,
    rel_rms: f64,
    /// Greedy choices that were won by less may differ.
    tie: f64,
}

const CPU: Route = Route { device: Device::CPU, kind: KvKind::F32, rel_rms: 1e-4, tie: 1e-3 };
const CPU_F16: Route = Route { device: Device::CPU, kind: KvKind::F16, rel_rms: 3e-3, tie: 0.05 };
const GPU: Route = Route { device: Device::GPU, kind: KvKind::F16, rel_rms: 3e-3, tie: 0.05 };

fn gpu() -> bool {
    or_skip(Gpu::shared()).is_some()
}

fn logits_match(route: &Route) {
    for fixture in fixtures() {
        let model = fixture.load(route.device);
        let vocab = model.config().vocab_size;
        for prompt in fixture.prompts() {
            let all = logits(&model, &fixture.ids(prompt), &[route.kind]).unwrap();
            let (expected, positions) = fixture.logits(prompt);
            let got: Vec<f32> = positions.iter().flat_map(|p| &all[p * vocab..][..vocab]).copied().collect();
            let error = rel_rms(&got, &expected);
            assert!(error <= route.rel_rms, "{} {prompt}: relative rms error {error:.2e}", fixture.name);
        }
    }
}

fn greedy_tokens_match(route: &Route) {
    for fixture in fixtures() {
        let model = fixture.load(route.device);
        let mut generator = Generator::new(&model, Some(route.kind));
        for prompt in fixture.prompts() {
            let (expected, margins) = fixture.greedy(prompt);
            let options = GenerateOptions {
                max_tokens: Some(expected.len()),
                ignore_eos: true,
                ..GenerateOptions::default()
            };
            generator.prompt(&fixture.ids(prompt), options).unwrap();
            let got: Vec<u32> = generator.by_ref().map(Result::unwrap).collect();
            let same = got.iter().zip(&expected).take_while(|(a, b)| a == b).count();
            if same < expected.len() {
                let (name, margin) = (&fixture.name, margins[same]);
                assert!(margin < route.tie, "{name} {prompt}: token {same} differs, won by {margin}");
            }
        }
    }
}

#[test]
fn logits_are_the_reference_softwares_on_the_cpu() {
    logits_match(&CPU);
}

#[test]
fn logits_hold_with_half_precision_keys_and_values() {
    logits_match(&CPU_F16);
}

#[test]
fn greedy_tokens_are_the_reference_softwares_on_the_cpu() {
    greedy_tokens_match(&CPU);
}

#[test]
fn logits_are_the_reference_softwares_on_the_gpu() {
    if gpu() {
        logits_match(&GPU);
    }
}

#[test]
fn greedy_tokens_are_the_reference_softwares_on_the_gpu() {
    if gpu() {
        greedy_tokens_match(&GPU);
    }
}

/// The device is the process's: another one opens it with `UNIMLX_CHECKED=1`.
#[test]
fn kernels_with_bounds_checks_do_the_same() {
    if !gpu() {
        return;
    }
    let tests = [
        "logits_are_the_reference_softwares_on_the_gpu",
        "greedy_tokens_are_the_reference_softwares_on_the_gpu",
    ];
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    let output = command.args(tests).arg("--exact").env("UNIMLX_CHECKED", "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("2 passed"), "{said}");
}

#[test]
fn the_definition_alone_gives_the_same_logits() {
    for fixture in fixtures() {
        let model = fixture.load(Device::CPU);
        let (expected, positions) = fixture.logits("short");
        assert_eq!(positions.len() * model.config().vocab_size, expected.len());
        let got = model.reference_logits(&fixture.ids("short")).unwrap();
        let error = rel_rms(&got, &expected);
        assert!(error <= 1e-4, "{}: relative rms error {error:.2e}", fixture.name);
    }
}

/// A copy of a fixture's model folder that a test may break.
fn copy(name: &str) -> (tempfile::TempDir, PathBuf) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name).join("model");
    let to = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.path().join(path.file_name().unwrap())).unwrap();
    }
    let folder = to.path().to_owned();
    (to, folder)
}

/// What loading says after a field of `config.json` was changed.
fn error_with(name: &str, field: &str, value: Value) -> String {
    let (_guard, folder) = copy(name);
    let path = folder.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config[field] = value;
    std::fs::write(&path, config.to_string()).unwrap();
    let options = LoadOptions { device: Some(Device::CPU), ..LoadOptions::default() };
    match Model::load(&folder, options) {
        Ok(_) => panic!("{name} loads with another {field}"),
        Err(e) => e.to_string(),
    }
}

#[test]
fn a_configuration_that_lies_is_an_error_that_names_the_tensor() {
    let expect = |text: String, words: &[&str]| {
        for word in words {
            assert!(text.contains(word), "`{word}` is not in: {text}");
        }
    };
    let embed = ["model.safetensors", "model.embed_tokens.weight", "expected"];
    expect(error_with("llama", "vocab_size", 577.into()), &embed);
    expect(error_with("llama", "hidden_size", 64.into()), &embed);
    expect(error_with("llama", "head_dim", 16.into()), &["model.layers.0.self_attn.q_proj.weight"]);
    expect(error_with("llama", "num_key_value_heads", 4.into()), &["model.layers.0.self_attn.k_proj.weight"]);
    expect(error_with("llama", "intermediate_size", 255.into()), &["model.layers.0.mlp.gate_proj.weight"]);
    expect(error_with("llama", "num_hidden_layers", 3.into()), &["model.layers.2.input_layernorm.weight"]);
    expect(
        error_with("llama", "num_hidden_layers", 1.into()),
        &["`num_hidden_layers` is 1", "weights of more"],
    );
    expect(error_with("llama", "attention_bias", true.into()), &["model.layers.0.self_attn.q_proj.bias"]);
    expect(error_with("llama", "model_type", "gpt99".into()), &["gpt99", "llama", "qwen3"]);
    expect(error_with("llama", "hidden_act", "relu6".into()), &["hidden_act", "relu6"]);
    expect(error_with("llama", "head_dim", 33.into()), &["q_proj.weight"]);
    expect(error_with("llama-tied", "tie_word_embeddings", false.into()), &["lm_head.weight"]);
    expect(error_with("qwen3", "model_type", "qwen2".into()), &["q_proj.bias"]);
    let packed = error_with("qwen3-mlx-q4g64", "hidden_size", 128.into());
    expect(packed, &["model.safetensors", "model.embed_tokens.", "expected"]);
}

#[test]
fn loading_reports_progress_and_can_be_cancelled() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/llama-mlx-q4g64/model");
    let mut seen = Vec::new();
    let mut watch = |p: unimlx::Progress<'_>| {
        seen.push((p.done, p.total));
        ControlFlow::Continue(())
    };
    let options = LoadOptions { device: Some(Device::CPU), progress: Some(&mut watch) };
    let model = Model::load(&folder, options).unwrap();
    assert!(seen.windows(2).all(|w| w[0].0 < w[1].0));
    assert_eq!(*seen.last().unwrap(), (model.bytes(), model.bytes()));

    let mut stop = |_: unimlx::Progress<'_>| ControlFlow::Break(());
    let options = LoadOptions { device: Some(Device::CPU), progress: Some(&mut stop) };
    assert!(Model::load(&folder, options).unwrap_err().is_cancelled());
}

#[test]
fn no_number_in_a_configuration_can_make_it_panic() {
    let options = || LoadOptions { device: Some(Device::CPU), ..LoadOptions::default() };
    let numbers = [-1.0, 0.0, 0.5, 1.0, 2.0, 3.0, 5.0, 31.0, 64.0, 1e6, 1e300].map(|x| match x {
        x if x == f64::floor(x) && x.abs() < 1e9 => Value::from(x as i64),
        x => Value::from(x),
    });
    let fields = [
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "num_hidden_layers",
        "vocab_size",
        "rms_norm_eps",
        "rope_theta",
        "partial_rotary_factor",
        "sliding_window",
        "max_window_layers",
        "max_position_embeddings",
    ];
    let scalings = [
        r#"{"rope_type": "linear", "factor": 1e-300}"#,
        r#"{"rope_type": "yarn", "factor": 1e300}"#,
        r#"{"rope_type": "yarn", "factor": 4, "beta_fast": 1e-9, "beta_slow": 1e9}"#,
        r#"{"rope_type": "llama3", "factor": 1e300, "low_freq_factor": 1e-300, "high_freq_factor": 1e300}"#,
        r#"{"rope_type": "dynamic", "factor": 2}"#,
        r#"{"rope_type": "longrope", "factor": 2, "short_factor": [1], "long_factor": [1]}"#,
    ];
    let scalings = scalings.map(|s| serde_json::from_str::<Value>(s).unwrap());
    let changes = fields.iter().flat_map(|f| numbers.iter().map(move |n| (*f, n)));
    let changes: Vec<_> = changes.chain(scalings.iter().map(|s| ("rope_scaling", s))).collect();
    for name in ["llama-mlx-q4g64", "mistral", "qwen3"] {
        let (_guard, folder) = copy(name);
        let path = folder.join("config.json");
        let plain: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let mut loaded = 0;
        for (field, value) in &changes {
            let mut config = plain.clone();
            config[field] = (*value).clone();
            std::fs::write(&path, config.to_string()).unwrap();
            if let Ok(model) = Model::load(&folder, options()) {
                loaded += 1;
                match logits(&model, &[1, 2, 3], &[]) {
                    Ok(logits) => assert_eq!(logits.len(), 3 * model.config().vocab_size),
                    Err(e) => assert!(e.is_input(), "{name}, {field} = {value}: {e}"), // a shorter context
                }
            }
        }
        assert!(loaded > 10, "{name}: {loaded}");
    }
}
