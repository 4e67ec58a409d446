//! Model folders: what loads is exactly what the files say, and what is broken is named.

use proptest::prelude::*;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use unimlx::{Checkpoint, Device, LoadOptions, MlxModel, Model, Quantization, Tokenizer, load_mlx_model};

/// Fixture folders of the dense and affine kinds.
fn fixtures() -> Vec<PathBuf> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut all: Vec<_> = std::fs::read_dir(golden).unwrap().map(|e| e.unwrap().path()).collect();
    all.retain(|p| p.join("model/config.json").is_file());
    all.sort();
    assert!(all.len() >= 18, "{} fixtures", all.len());
    all
}

fn floats(t: &TensorView<'_>) -> Vec<f64> {
    let wide = |b: &[u8]| match t.dtype() {
        Dtype::F32 => f32::from_le_bytes(b.try_into().unwrap()),
        Dtype::BF16 => half::bf16::from_le_bytes(b.try_into().unwrap()).to_f32(),
        Dtype::F16 => half::f16::from_le_bytes(b.try_into().unwrap()).to_f32(),
        other => panic!("{other:?}"),
    };
    t.data().chunks(t.dtype().bitsize() / 8).map(|b| f64::from(wide(b))).collect()
}

/// `<module>.weight` by the format's definition, bit by bit and in f64.
fn by_definition(file: &SafeTensors<'_>, config: &Value, module: &str) -> Vec<f32> {
    let weight = file.tensor(&format!("{module}.weight")).unwrap();
    let Ok(scales) = file.tensor(&format!("{module}.scales")) else {
        return floats(&weight).iter().map(|&x| x as f32).collect();
    };
    let q = &config["quantization"];
    let q = if q[module].is_object() { &q[module] } else { q };
    let (bits, group) = (q["bits"].as_u64().unwrap() as usize, q["group_size"].as_u64().unwrap() as usize);
    let (scales, biases) = (floats(&scales), floats(&file.tensor(&format!("{module}.biases")).unwrap()));
    let bit = |at: usize| weight.data()[at / 8] >> (at % 8) & 1;
    let code = |i: usize| (0..bits).map(|b| u32::from(bit(i * bits + b)) << b).sum::<u32>();
    let count = weight.data().len() * 8 / bits;
    (0..count).map(|i| (scales[i / group] * f64::from(code(i)) + biases[i / group]) as f32).collect()
}

#[test]
fn every_fixture_loads_to_exactly_its_numbers() {
    for folder in fixtures() {
        let model = load_mlx_model(folder.join("model")).unwrap();
        let bytes = std::fs::read(folder.join("model/model.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let config: Value =
            serde_json::from_slice(&std::fs::read(folder.join("model/config.json")).unwrap()).unwrap();
        let same = |got: &[f32], module: &str| {
            let expected = by_definition(&file, &config, module);
            assert!(got == expected, "{}: {module}", folder.display());
        };
        let slice = |a: &ndarray::Array2<f32>| a.as_slice().unwrap().to_vec();
        same(&slice(&model.embedding), "model.embed_tokens");
        assert_eq!(model.lm_head.is_none(), config["tie_word_embeddings"] == true);
        if let Some(head) = &model.lm_head {
            same(&slice(head), "lm_head");
        }
        assert_eq!(model.layers.len() as u64, config["num_hidden_layers"].as_u64().unwrap());
        for (i, layer) in model.layers.iter().enumerate() {
            for (w, name) in [
                (&layer.attn_q, "self_attn.q_proj"),
                (&layer.attn_k, "self_attn.k_proj"),
                (&layer.attn_v, "self_attn.v_proj"),
                (&layer.attn_o, "self_attn.o_proj"),
                (&layer.mlp_gate, "mlp.gate_proj"),
                (&layer.mlp_up, "mlp.up_proj"),
                (&layer.mlp_down, "mlp.down_proj"),
            ] {
                same(&slice(w), &format!("model.layers.{i}.{name}"));
            }
            same(&layer.input_norm.to_vec(), &format!("model.layers.{i}.input_layernorm"));
            same(&layer.post_attn_norm.to_vec(), &format!("model.layers.{i}.post_attention_layernorm"));
            let has = |name: &str| file.tensor(&format!("model.layers.{i}.{name}")).is_ok();
            assert_eq!(layer.q_norm.is_some(), has("self_attn.q_norm.weight"));
            assert_eq!(layer.attn_k_bias.is_some(), has("self_attn.k_proj.bias"));
        }
        same(&model.norm.to_vec(), "model.norm");
    }
}

/// The reference's own embedding of the prompt, where it was stored.
#[test]
fn embeddings_are_those_of_the_reference() {
    let mut seen = 0;
    for folder in fixtures() {
        let bytes = std::fs::read(folder.join("golden.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let Ok(states) = file.tensor("short.hidden_states") else { continue };
        let golden: Value =
            serde_json::from_slice(&std::fs::read(folder.join("golden.json")).unwrap()).unwrap();
        let model = load_mlx_model(folder.join("model")).unwrap();
        let states = floats(&states);
        for (t, id) in golden["prompts"]["short"]["ids"].as_array().unwrap().iter().enumerate() {
            let row = model.embedding.row(id.as_u64().unwrap() as usize);
            for (i, &x) in row.iter().enumerate() {
                assert_eq!(f64::from(x), states[t * row.len() + i], "{}", folder.display());
            }
        }
        seen += 1;
    }
    assert!(seen >= 5);
}

#[test]
fn per_layer_bits_are_reported() {
    let folder = fixtures().into_iter().find(|f| f.ends_with("llama-mlx-mixed46")).unwrap();
    let checkpoint = Checkpoint::open(folder.join("model")).unwrap();
    let bits =
        |module: &str| checkpoint.quantization_of(module).unwrap().map(|Quantization { bits, .. }| bits);
    assert_eq!(bits("model.layers.0.mlp.down_proj"), Some(4));
    assert_eq!(bits("model.layers.1.mlp.down_proj"), Some(6));
    assert_eq!(bits("lm_head"), Some(6));
    assert_eq!(bits("model.norm"), None);
    assert_eq!(checkpoint.generation_config().temperature, Some(0.6));
    assert_eq!(checkpoint.tokenizer().unwrap().eos_token_ids(), [571, 568]);
}

/// A tiny model to break: one layer, 64 wide, with a packed `down_proj` of 8 bits in groups of 64.
#[derive(Clone)]
struct Tiny {
    config: Value,
    tensors: BTreeMap<String, (Dtype, Vec<usize>)>,
    extra: Vec<(&'static str, Vec<u8>)>,
}

impl Tiny {
    fn new() -> Self {
        let config = json!({
            "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1,
            "num_attention_heads": 2, "vocab_size": 8, "tie_word_embeddings": true,
            "quantization": {"bits": 8, "group_size": 64},
        });
        let mut tensors = BTreeMap::new();
        let mut add = |name: &str, dtype, shape: &[usize]| {
            tensors.insert(name.to_owned(), (dtype, shape.to_vec()));
        };
        add("model.embed_tokens.weight", Dtype::F16, &[8, 64]);
        add("model.norm.weight", Dtype::F32, &[64]);
        for name in ["input_layernorm", "post_attention_layernorm"] {
            add(&format!("model.layers.0.{name}.weight"), Dtype::BF16, &[64]);
        }
        for name in ["q", "k", "v", "o"] {
            add(&format!("model.layers.0.self_attn.{name}_proj.weight"), Dtype::F32, &[64, 64]);
        }
        for name in ["gate", "up"] {
            add(&format!("model.layers.0.mlp.{name}_proj.weight"), Dtype::BF16, &[128, 64]);
        }
        add("model.layers.0.mlp.down_proj.weight", Dtype::U32, &[64, 32]);
        add("model.layers.0.mlp.down_proj.scales", Dtype::F16, &[64, 2]);
        add("model.layers.0.mlp.down_proj.biases", Dtype::F16, &[64, 2]);
        Self { config, tensors, extra: Vec::new() }
    }

    fn set(mut self, field: &str, value: Value) -> Self {
        self.config[field] = value;
        self
    }

    fn tensor(mut self, name: &str, dtype: Dtype, shape: &[usize]) -> Self {
        self.tensors.insert(name.to_owned(), (dtype, shape.to_vec()));
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.tensors.remove(name).unwrap();
        self
    }

    fn file(mut self, name: &'static str, content: impl Into<Vec<u8>>) -> Self {
        self.extra.push((name, content.into()));
        self
    }

    /// A safetensors file of those tensors that pass.
    fn weights(&self, keep: impl Fn(&str) -> bool) -> Vec<u8> {
        let kept = self.tensors.iter().filter(|(name, _)| keep(name));
        let data: Vec<_> = kept
            .map(|(name, (dtype, shape))| {
                let len = shape.iter().product::<usize>() * dtype.bitsize() / 8;
                // Small numbers in every float type, and different in each tensor, whatever its prefix.
                let place = name.replace("language_model.", "").replace("model.", "").len();
                let byte = |i: usize| if i % 2 == 1 { 0x3c } else { (i / 2 + place) as u8 };
                (name.clone(), *dtype, shape.clone(), (0..len).map(byte).collect::<Vec<u8>>())
            })
            .collect();
        let views = data.iter().map(|(n, d, s, b)| (n.clone(), TensorView::new(*d, s.clone(), b).unwrap()));
        safetensors::serialize(views, None).unwrap()
    }

    /// The folder's files; `extra` replaces.
    fn files(&self) -> BTreeMap<&'static str, Vec<u8>> {
        let mut files = BTreeMap::from([("config.json", self.config.to_string().into_bytes())]);
        if !self.extra.iter().any(|(name, _)| name.ends_with(".safetensors")) {
            files.insert("model.safetensors", self.weights(|_| true));
        }
        files.extend(self.extra.iter().cloned());
        files
    }

    fn folder(&self) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in self.files() {
            std::fs::write(dir.path().join(name), content).unwrap();
        }
        dir
    }

    fn load(&self) -> unimlx::Result<MlxModel> {
        load_mlx_model(self.folder().path())
    }
}

const DOWN: &str = "model.layers.0.mlp.down_proj";
const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:0a1b\nsize 1234567\n";

/// Shifts the data of a safetensors file to every alignment by padding its header.
fn padded(file: &[u8], by: usize) -> Vec<u8> {
    let header = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let mut out = ((header + by) as u64).to_le_bytes().to_vec();
    out.extend_from_slice(&file[8..8 + header]);
    out.extend(std::iter::repeat_n(b' ', by));
    out.extend_from_slice(&file[8 + header..]);
    out
}

#[test]
fn one_file_shards_memory_and_any_alignment_give_the_same_model() {
    let tiny = Tiny::new();
    let whole = tiny.load().unwrap();
    assert_eq!(whole.layers[0].mlp_down.dim(), (64, 128));
    let same = |other: &MlxModel| {
        assert_eq!(whole.embedding, other.embedding);
        assert_eq!(whole.layers[0].mlp_down, other.layers[0].mlp_down);
        assert_eq!(whole.layers[0].input_norm, other.layers[0].input_norm);
        assert_eq!(whole.norm, other.norm);
    };

    let in_first = |name: &str| name.contains("mlp");
    let (first, second) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    let shards =
        tiny.clone().file(first, tiny.weights(in_first)).file(second, tiny.weights(|n| !in_first(n)));
    same(&shards.load().unwrap()); // without an index, all files count
    let map: BTreeMap<_, _> =
        tiny.tensors.keys().map(|n| (n.clone(), if in_first(n) { first } else { second })).collect();
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string();
    same(&shards.clone().file("model.safetensors.index.json", index).load().unwrap());
    same(&tiny.clone().file("weights.safetensors", tiny.weights(|_| true)).load().unwrap());
    // An index that was left behind by a conversion to a single file does not matter.
    let stale =
        tiny.clone().file("model.safetensors.index.json", r#"{"weight_map": {"a": "gone.safetensors"}}"#);
    same(&stale.load().unwrap());

    for by in 1..8 {
        same(&tiny.clone().file("model.safetensors", padded(&tiny.weights(|_| true), by)).load().unwrap());
    }
    let memory = tiny.files().into_iter().map(|(name, bytes)| (name, Cow::Owned(bytes)));
    let checkpoint = Checkpoint::from_memory(memory).unwrap();
    same(&MlxModel::from_checkpoint(&checkpoint).unwrap());
    assert_eq!(checkpoint.names().count(), tiny.tensors.len());
    let data: usize = tiny.tensors.values().map(|(d, s)| s.iter().product::<usize>() * d.bitsize() / 8).sum();
    assert_eq!(checkpoint.total_bytes(), data);
}

/// Embedding models come without `model.`, and parts of larger models with `language_model.`.
#[test]
fn names_may_have_other_prefixes() {
    let eight = || json!({"bits": 8, "group_size": 64});
    let quantization =
        |down: &str, head: &str| json!({"bits": 4, "group_size": 64, down: eight(), head: eight()});
    let usual = Tiny::new().set("quantization", quantization(DOWN, "lm_head"));
    let usual = usual.set("tie_word_embeddings", json!(false)).tensor("lm_head.weight", Dtype::U32, &[8, 16]);
    let usual =
        usual.tensor("lm_head.scales", Dtype::F16, &[8, 1]).tensor("lm_head.biases", Dtype::F16, &[8, 1]);
    let whole = usual.load().unwrap();
    let ways: [fn(&str) -> String; 3] = [
        |name| name.strip_prefix("model.").unwrap_or(name).into(),
        |name| format!("language_model.{name}"),
        |name| name.replacen("model.", "model.language_model.", 1),
    ];
    for way in ways {
        let mut other = usual.clone().set("quantization", quantization(&way(DOWN), &way("lm_head")));
        other.tensors = usual.tensors.iter().map(|(name, spec)| (way(name), spec.clone())).collect();
        let other = other.tensor("vision.patch.weight", Dtype::F16, &[3]).load().unwrap();
        assert_eq!((&whole.embedding, &whole.lm_head), (&other.embedding, &other.lm_head));
        assert_eq!(whole.layers[0].mlp_down, other.layers[0].mlp_down);
        assert_eq!(whole.norm, other.norm);
    }
}

/// Old checkpoints have buffers that nobody computes with.
#[test]
fn tensors_that_nobody_asks_for_may_be_of_any_type() {
    let tiny = Tiny::new().tensor("model.position_ids", Dtype::I64, &[3]).tensor("x", Dtype::BOOL, &[2]);
    let options = LoadOptions { device: Some(Device::CPU), ..LoadOptions::default() };
    let model = Model::load(tiny.folder(), options).unwrap();
    assert_eq!(unimlx::logits(&model, &[1, 2], &[]).unwrap().len(), 16);
}

#[test]
fn silence_about_tying_is_decided_by_the_tensors() {
    let silent = Tiny::new().set("tie_word_embeddings", Value::Null);
    assert!(silent.load().unwrap().lm_head.is_none());
    assert!(silent.tensor("lm_head.weight", Dtype::BF16, &[8, 64]).load().unwrap().lm_head.is_some());
}

#[test]
fn without_a_configuration_shapes_decide_if_they_can() {
    let tiny = Tiny::new().set("quantization", Value::Null);
    let e = tiny.load().unwrap_err().to_string();
    assert!(e.contains("down_proj.scales") && e.contains("several formats"), "{e}");
    // 6 words and 1 group per row of 5 bits could only be ... nothing; 4 words and 1 group only 2 bits in 64
    // or 4 in 32; 3 words and 1 group only 3 bits in 32.
    let clear = tiny.tensor(&format!("{DOWN}.weight"), Dtype::U32, &[64, 12]);
    let clear = clear.tensor(&format!("{DOWN}.scales"), Dtype::F16, &[64, 4]);
    let clear = clear.tensor(&format!("{DOWN}.biases"), Dtype::F16, &[64, 4]);
    assert_eq!(clear.load().unwrap().layers[0].mlp_down.dim(), (64, 128));
}

#[test]
fn everything_broken_is_named() {
    let tiny = Tiny::new;
    let weights = tiny().weights(|_| true);
    let with_weights = |bytes: Vec<u8>| tiny().file("model.safetensors", bytes);
    let header = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let index = |map: Value| json!({ "weight_map": map }).to_string();
    let shard = "model-00001-of-00001.safetensors";
    let name = |suffix: &str| format!("{DOWN}.{suffix}");
    let norm = "model.norm.weight";
    let indexed =
        |map: Value| tiny().file(shard, weights.clone()).file("model.safetensors.index.json", index(map));
    // What is broken, and words that the error must have: file, then tensor or field, then why.
    let cases: Vec<(Tiny, [&str; 3])> = vec![
        (
            with_weights(weights[..weights.len() - 1].to_vec()),
            ["model.safetensors", "tensor `", "outside the file"],
        ),
        (with_weights(weights[..100].to_vec()), ["model.safetensors", "", "truncated"]),
        (with_weights(vec![]), ["model.safetensors", "", "truncated"]),
        (
            with_weights([&u64::MAX.to_le_bytes()[..], &weights[8..]].concat()),
            ["model.safetensors", "", "limit"],
        ),
        (
            with_weights([&9u64.to_le_bytes()[..], &weights[8..]].concat()),
            ["model.safetensors", "", "header"],
        ),
        (
            with_weights(header(
                r#"{"w":{"dtype":"F32","shape":[18446744073709551615,2],"data_offsets":[0,0]}}"#,
            )),
            ["model.safetensors", "tensor `w`", "larger than memory"],
        ),
        (
            with_weights(header(r#"{"w":{"dtype":"F32","shape":[-1],"data_offsets":[0,0]}}"#)),
            ["model.safetensors", "tensor `w`", "bad entry"],
        ),
        (tiny().tensor(norm, Dtype::I64, &[64]), ["model.safetensors", norm, "dtype I64"]),
        (tiny().tensor(norm, Dtype::U32, &[64]), ["model.safetensors", norm, "dtype u32"]),
        (tiny().tensor(norm, Dtype::F32, &[63]), ["model.safetensors", norm, "shape [63], expected [64]"]),
        (
            tiny().tensor("model.embed_tokens.weight", Dtype::F32, &[9, 64]),
            ["model.safetensors", "model.embed_tokens.weight", "[9, 64], expected [8, 64]"],
        ),
        (tiny().without(norm), ["model.safetensors", norm, "no tensor"]),
        (
            tiny().set("tie_word_embeddings", json!(false)),
            ["model.safetensors", "lm_head.weight", "no tensor"],
        ),
        (tiny().without(&name("biases")), ["model.safetensors", "down_proj.biases", "no tensor"]),
        (tiny().without(&name("weight")), ["model.safetensors", "down_proj.weight", "no tensor"]),
        (
            tiny().tensor(&name("scales"), Dtype::F16, &[64, 3]),
            [
                "model.safetensors",
                "down_proj.scales",
                "[64, 3] does not belong to packed weight of shape [64, 32]",
            ],
        ),
        (
            tiny().tensor(&name("scales"), Dtype::F16, &[63, 2]),
            ["model.safetensors", "down_proj.scales", "[63, 2]"],
        ),
        (
            tiny().tensor(&name("scales"), Dtype::F16, &[]),
            ["model.safetensors", "down_proj.weight", "scalar"],
        ),
        (
            tiny().tensor(&name("scales"), Dtype::U8, &[64, 2]),
            ["model.safetensors", "down_proj.scales", "dtype u8"],
        ),
        (
            tiny().tensor(&name("biases"), Dtype::F16, &[64, 1]),
            ["model.safetensors", "down_proj.biases", "[64, 1], expected [64, 2]"],
        ),
        (
            tiny().tensor(&name("biases"), Dtype::F32, &[64, 2]),
            ["model.safetensors", "down_proj.biases", "dtype f32"],
        ),
        (
            tiny().tensor(&name("weight"), Dtype::F32, &[64, 32]),
            ["model.safetensors", "down_proj.weight", "packed weights are u32"],
        ),
        (tiny().set("intermediate_size", json!(64)), ["model.safetensors", "", "[64, 64]"]),
        (
            tiny().set("quantization", json!({"bits": 8, "group_size": 64, DOWN: false})),
            ["model.safetensors", "down_proj.scales", "not quantized"],
        ),
        (
            tiny().set("quantization", json!({"bits": 4, "group_size": 32, "mode": "mxfp4"})),
            ["model.safetensors", DOWN, "mxfp4, which is not supported"],
        ),
        (tiny().set("model_type", json!("rwkv")), ["config.json", "`model_type`", "`rwkv` is not supported"]),
        (tiny().set("num_attention_heads", json!(0)), ["config.json", "`num_attention_heads`", "found 0"]),
        (tiny().set("hidden_size", json!("big")), ["config.json", "`hidden_size`", "found \"big\""]),
        (tiny().file("config.json", "{"), ["config.json", "", "not valid JSON"]),
        (
            tiny().file("generation_config.json", r#"{"temperature": -1}"#),
            ["generation_config.json", "`temperature`", "found -1"],
        ),
        (
            tiny().file("model.safetensors.index.json", "{"),
            ["model.safetensors.index.json", "", "not valid JSON"],
        ),
        (
            tiny().file("model.safetensors.index.json", "{}"),
            ["model.safetensors.index.json", "`weight_map`", "missing"],
        ),
        (indexed(json!({norm: "gone.safetensors"})), ["gone.safetensors", norm, ""]),
        (indexed(json!({"not.there": shard})), [shard, "not.there", "index.json"]),
        (indexed(json!({norm: "../other/model.safetensors"})), ["index.json", norm, "leaves the folder"]),
        (indexed(json!({norm: "/etc/passwd"})), ["index.json", norm, "leaves the folder"]),
        (indexed(json!({norm: 3})), ["index.json", "`weight_map`", "expected a string"]),
        (
            tiny().file("a.safetensors", weights.clone()).file("b.safetensors", weights.clone()),
            ["b.safetensors", "tensor `", "also in"],
        ),
        (with_weights(POINTER.into()), ["model.safetensors", "Git LFS pointer", "git lfs pull"]),
        (tiny().file("config.json", POINTER), ["config.json", "Git LFS pointer", "git lfs pull"]),
        (
            tiny().file("model-1.safetensors", weights.clone()).file("model-2.safetensors", "x"),
            ["model-2.safetensors", "", "truncated"],
        ),
    ];
    for (broken, words) in cases {
        let e = broken.load().expect_err(words[2]);
        for word in words {
            assert!(e.to_string().contains(word), "{e}\nshould mention {word}");
        }
    }
    let nowhere = load_mlx_model("/no/such/folder").unwrap_err();
    assert!(nowhere.is_io() && nowhere.to_string().contains("/no/such/folder"));
    let dir = tempfile::tempdir().unwrap();
    assert!(load_mlx_model(dir.path()).unwrap_err().to_string().contains("config.json"));
    std::fs::write(dir.path().join("config.json"), Tiny::new().config.to_string()).unwrap();
    assert!(load_mlx_model(dir.path()).unwrap_err().to_string().contains("model.safetensors"));
    std::fs::write(dir.path().join("pytorch_model.bin"), "x").unwrap();
    let torch = load_mlx_model(dir.path()).unwrap_err().to_string();
    assert!(torch.contains("no such file") && torch.contains("pytorch_model.bin cannot be read"), "{torch}");
    assert!(load_mlx_model(dir.path().join("config.json")).unwrap_err().is_io());
    assert!(Tokenizer::open(dir.path()).unwrap_err().to_string().contains("tokenizer.json"));
}

proptest! {
    /// Damaged bytes in any file: an error or a model, never a panic.
    #[test]
    fn damage_never_panics(
        which in any::<prop::sample::Index>(),
        hits in prop::collection::vec((0usize..2500, any::<u8>()), 1..4),
    ) {
        let tiny = Tiny::new().file("generation_config.json", r#"{"eos_token_id": [1, 2], "top_p": 0.9, "top_k": 5}"#);
        let mut files = tiny.files();
        let at = which.index(files.len());
        let damaged = files.values_mut().nth(at).unwrap();
        for (at, byte) in hits {
            let at = at % damaged.len();
            damaged[at] = byte;
        }
        let files = files.into_iter().map(|(name, bytes)| (name, Cow::Owned(bytes)));
        if let Ok(checkpoint) = Checkpoint::from_memory(files) {
            let _ = MlxModel::from_checkpoint(&checkpoint);
        }
    }
}
