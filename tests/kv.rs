//! Packed caches end to end: every kind on every device, in one step or token by token, and mlx-lm's own cache
//! against its golden numbers.

use safetensors::SafeTensors;
use serde_json::Value;
use std::path::{Path, PathBuf};
use unimlx::internals::or_skip;
use unimlx::{
    Batch, Checkpoint, Device, Fit, GenerateOptions, Generator, Gpu, KvKind, LoadOptions, Model, logits,
    logits_after,
};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn load(folder: &Path, device: Device) -> Model {
    let options = LoadOptions { device: Some(device), ..LoadOptions::default() };
    Model::load(folder, options).unwrap()
}

fn shipped(device: Device) -> Model {
    load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/storyteller"), device)
}

/// The devices there are.
fn devices() -> Vec<Device> {
    if or_skip(Gpu::shared()).is_some() { vec![Device::CPU, Device::GPU] } else { vec![Device::CPU] }
}

const KINDS: [KvKind; 5] =
    [KvKind::Int8, KvKind::K8V4, KvKind::Int4, KvKind::K4V3, KvKind::Mlx { bits: 4, group: 64 }];

fn ids(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (i * i * 31 + 7 * i) % 3000 + 10).collect()
}

/// Root mean square of the difference relative to that of the expectation.
fn distance(got: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let square = |x: f64| x * x;
    let error: f64 = got.iter().zip(expected).map(|(&a, &b)| square(f64::from(a) - f64::from(b))).sum();
    (error / expected.iter().map(|&b| square(f64::from(b))).sum::<f64>()).sqrt()
}

#[test]
fn the_fewer_bits_the_further_from_f32_but_never_far() {
    for device in devices() {
        let model = shipped(device);
        let exact = logits(&model, &ids(60), &[KvKind::F32]).unwrap();
        let bounds = [0.01, 0.1, 0.15, 0.25, 0.25];
        let distances = KINDS.map(|kind| distance(&logits(&model, &ids(60), &[kind]).unwrap(), &exact));
        for ((kind, distance), bound) in KINDS.into_iter().zip(distances).zip(bounds) {
            assert!(distance < bound, "{kind} on {device:?}: {distance}");
        }
        assert!(distances[..4].is_sorted(), "{distances:?}");
    }
}

#[test]
fn token_by_token_is_the_same_as_all_at_once() {
    for device in devices() {
        let model = shipped(device);
        let vocab = model.config().vocab_size;
        for kind in KINDS {
            let all = logits(&model, &ids(24), &[kind]).unwrap();
            let tokens = ids(24);
            let steps = logits_after(&model, &tokens[..20], &tokens[20..], kind, kind).unwrap();
            let d = distance(&steps, &all[20 * vocab..]);
            assert!(d < 2e-2, "{kind} on {device:?}: {d}");
        }
    }
}

#[test]
fn generation_grows_a_packed_cache() {
    for device in devices() {
        let model = shipped(device);
        let mut generator = Generator::new(&model, Some(KvKind::Int8));
        let options = GenerateOptions { max_tokens: Some(8), ..GenerateOptions::default() };
        let prompt = ids(250);
        generator.prompt(&prompt, options).unwrap();
        let tokens: Vec<u32> = generator.by_ref().map(Result::unwrap).collect();
        assert!(!tokens.is_empty());
        let cache = generator.cache();
        let config = model.config();
        let token = KvKind::Int8.bytes_per_token(config.num_key_value_heads, config.head_dim)
            * config.num_hidden_layers as u64;
        assert_eq!(cache.bytes() as u64, cache.capacity() as u64 * token);
    }
}

/// A prompt that one device read goes on where another left it, as on the device that read it; and where codes are not so
/// coarse that they show how a device rounds, as on any.
#[test]
fn a_prompt_survives_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let options = GenerateOptions { max_tokens: Some(6), ignore_eos: true, ..GenerateOptions::default() };
    let prompt = ids(70);
    for kind in [KvKind::F32, KvKind::F16, KvKind::Int8, KvKind::K4V3] {
        let answer = |generator: &mut Generator| {
            generator.prompt(&prompt, options.clone()).unwrap();
            generator.by_ref().map(Result::unwrap).collect::<Vec<_>>()
        };
        let on_cpu = answer(&mut Generator::new(&shipped(Device::CPU), Some(kind)));
        for from in devices() {
            let path = folder.path().join(format!("{kind}-{from:?}.safetensors"));
            let mut generator = Generator::new(&shipped(from), Some(kind));
            generator.prompt(&prompt[..60], options.clone()).unwrap();
            generator.save_prompt(&path).unwrap();
            let expected = answer(&mut generator);
            if kind != KvKind::K4V3 || from == Device::CPU {
                assert_eq!(expected, on_cpu, "{kind} on {from:?}");
            }
            for to in devices() {
                let mut generator = Generator::new(&shipped(to), Some(kind));
                assert_eq!(generator.load_prompt(&path).unwrap(), 60);
                assert_eq!(answer(&mut generator), expected, "{kind} from {from:?} to {to:?}");
                assert_eq!(generator.stats().cached_tokens, 60, "{kind} from {from:?} to {to:?}");
            }
        }
    }
}

#[test]
fn files_of_something_else_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prompt.safetensors");
    let model = shipped(Device::CPU);
    let mut generator = Generator::new(&model, Some(KvKind::Int4));
    generator.prompt(&ids(5), GenerateOptions::default()).unwrap();
    generator.save_prompt(&path).unwrap();
    let refused = |model: &Model, kind, path: &Path, words: [&str; 2]| {
        let e = Generator::new(model, Some(kind)).load_prompt(path).unwrap_err().to_string();
        assert!(words.iter().all(|word| e.contains(word)), "{e}");
    };
    refused(&model, KvKind::Int8, &path, ["kind is `int4`", "int8"]);
    let other = load(&golden("llama").join("model"), Device::CPU);
    refused(&other, KvKind::Int4, &path, ["prompt.safetensors", "model is"]);
    let bytes = std::fs::read(&path).unwrap();
    let cut = folder.path().join("cut.safetensors");
    std::fs::write(&cut, &bytes[..bytes.len() - 9]).unwrap();
    refused(&model, KvKind::Int4, &cut, ["cut.safetensors", ""]);
    // Of another version of the layout.
    let said = br#""version":"2""#;
    let at = bytes.windows(said.len()).position(|part| part == said).unwrap() + said.len() - 2;
    std::fs::write(&cut, [&bytes[..at], b"0", &bytes[at + 1..]].concat()).unwrap();
    refused(&model, KvKind::Int4, &cut, ["version is `0`", "not `2`"]);
    let weights = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/storyteller/model.safetensors");
    refused(&model, KvKind::Int4, &weights, ["format is", "unimlx-prompt"]);
    refused(&model, KvKind::Int4, &folder.path().join("none"), ["none", ""]);
    // Of a token that the model has not: nothing is left of the file or of what was before.
    let tokens: Vec<u8> = ids(5).iter().flat_map(|id| id.to_le_bytes()).collect();
    let at = bytes.windows(tokens.len()).position(|part| part == tokens).unwrap();
    let mut wrong = bytes.clone();
    wrong[at + 16..at + 20].fill(0x7f);
    std::fs::write(&cut, wrong).unwrap();
    let e = generator.load_prompt(&cut).unwrap_err().to_string();
    assert!(e.contains("cut.safetensors") && e.contains("token 4 of the prompt"), "{e}");
    generator.prompt(&ids(5), GenerateOptions::default()).unwrap();
    assert_eq!(generator.stats().cached_tokens, 0);
}

#[test]
fn a_trimmed_conversation_reads_only_what_is_new() {
    let model = shipped(Device::CPU);
    let options = GenerateOptions { max_tokens: Some(3), ignore_eos: true, ..GenerateOptions::default() };
    let mut generator = Generator::new(&model, Some(KvKind::Int8));
    generator.prompt(&ids(40), options.clone()).unwrap();
    generator.by_ref().for_each(|token| assert!(token.is_ok()));
    generator.trim(25);
    assert_eq!((generator.tokens(), generator.cache().len()), (&ids(40)[..25], 25));
    generator.prompt(&ids(40), options).unwrap();
    assert_eq!(generator.stats().cached_tokens, 25);
}

/// A file of a cache whose layers are of several kinds is for one like it.
#[test]
fn layers_may_be_of_several_kinds() {
    /// No near tie comes after them, where devices may differ.
    const TOKENS: usize = 44;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prompt.safetensors");
    let kinds = [KvKind::F16, KvKind::Int8, KvKind::Bits { keys: 8, values: 3 }, KvKind::K4V3];
    let options = GenerateOptions { max_tokens: Some(6), ignore_eos: true, ..GenerateOptions::default() };
    for device in devices() {
        let model = shipped(device);
        let mut generator = Generator::with_kinds(&model, &kinds);
        generator.prompt(&ids(TOKENS), options.clone()).unwrap();
        let config = model.config();
        let of_layer =
            |layer: usize| kinds[layer.min(3)].bytes_per_token(config.num_key_value_heads, config.head_dim);
        let token: u64 = (0..config.num_hidden_layers).map(of_layer).sum();
        let cache = generator.cache();
        assert_eq!(cache.bytes() as u64, (cache.pages() * 128) as u64 * token);
        assert_eq!((cache.kinds()[2], cache.kinds().last()), (kinds[2], Some(&KvKind::K4V3)));
        generator.save_prompt(&path).unwrap();
        let answer: Vec<u32> = generator.by_ref().map(Result::unwrap).collect();
        let mut again = Generator::with_kinds(&shipped(Device::CPU), &kinds);
        assert_eq!(again.load_prompt(&path).unwrap(), TOKENS);
        again.prompt(&[ids(TOKENS), answer[..1].to_vec()].concat(), options.clone()).unwrap();
        assert_eq!(again.stats().cached_tokens, TOKENS);
        assert_eq!(again.by_ref().map(Result::unwrap).take(5).collect::<Vec<_>>(), answer[1..]);
        let e = Generator::with_kinds(&model, &kinds[..3]).load_prompt(&path).unwrap_err().to_string();
        assert!(e.contains("its kind is") && e.contains("f16,int8,k8v3,k4v3"), "{e}");
    }
}

/// What no name stands for can still be written down.
#[test]
fn kinds_that_there_are_not_are_refused() {
    let model = shipped(Device::CPU);
    for kind in [
        KvKind::Bits { keys: 7, values: 4 },
        KvKind::Bits { keys: 0, values: 8 },
        KvKind::Mlx { bits: 4, group: 0 },
        KvKind::Mlx { bits: 5, group: 64 },
    ] {
        let e = Generator::new(&model, Some(kind)).prompt(&ids(3), GenerateOptions::default()).unwrap_err();
        assert!(e.is_input() && e.to_string().contains(&kind.name()), "{e}");
        let checkpoint =
            Checkpoint::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/storyteller")).unwrap();
        assert!(Fit::of(&checkpoint, None, kind).total() > 0);
    }
    let layers = model.config().num_hidden_layers;
    let kinds = vec![KvKind::F32; layers + 1];
    assert!(Generator::with_kinds(&model, &kinds[1..]).cache().check().is_ok());
    let said = format!("{} KV cache kinds by layer, but the model has {layers} layers", layers + 1);
    let e = Generator::with_kinds(&model, &kinds).prompt(&ids(3), GenerateOptions::default()).unwrap_err();
    assert_eq!((e.is_input(), e.to_string()), (true, said.clone()));
    assert_eq!(Batch::with_kinds(&model, 2, &kinds).unwrap_err().to_string(), said);
    assert_eq!(logits(&model, &ids(3), &kinds).unwrap_err().to_string(), said);
}

/// A prompt is never written over what is no file.
#[cfg(unix)]
#[test]
fn prompts_are_kept_in_files_only() {
    let folder = tempfile::tempdir().unwrap();
    let mut generator = Generator::new(&shipped(Device::CPU), None);
    generator.prompt(&ids(5), GenerateOptions::default()).unwrap();
    let socket = folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for (path, why) in [
        (socket, "not a regular file"),
        (folder.path().to_path_buf(), "not a regular file"),
        (folder.path().join("none/p.safetensors"), "there is no folder"),
    ] {
        let e = generator.save_prompt(&path).unwrap_err();
        let text = e.to_string();
        assert!(e.is_io() && text.contains(why) && text.contains(&*path.to_string_lossy()), "{e}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let text = folder.path().join("text");
    std::fs::write(&text, "hello").unwrap();
    let e = generator.load_prompt(&text).unwrap_err();
    assert!(e.is_format() && e.to_string().contains("not a saved prompt"), "{e}");
}

#[test]
fn groups_that_divide_no_head_are_refused() {
    let model = shipped(Device::CPU);
    let e = logits(&model, &ids(3), &[KvKind::Mlx { bits: 8, group: 128 }]).unwrap_err();
    assert!(e.is_input(), "{e}");
}

/// mlx-lm reads all but the prompt's last token with a plain cache, quantizes that, and goes on.
#[test]
fn the_cache_of_mlx_lm_gives_its_numbers() {
    let (mut runs, mut exact) = (0, 0);
    for folder in std::fs::read_dir(golden("")).unwrap().map(|entry| entry.unwrap().path()) {
        let Ok(text) = std::fs::read(folder.join("golden.json")) else { continue };
        let known: Value = serde_json::from_slice(&text).unwrap();
        let Some(all) = known["kv_quant"]["runs"].as_object() else { continue };
        let tensors = std::fs::read(folder.join("golden.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&tensors).unwrap();
        let u32s = |v: &Value| -> Vec<u32> {
            v.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
        };
        let prompt = u32s(&known["prompts"]["short"]["ids"]);
        let model = load(&folder.join("model"), Device::CPU);
        let vocab = model.config().vocab_size;
        for (name, run) in all.iter().filter(|(name, _)| name.ends_with(".mlx_f32")) {
            let Ok(tensor) = tensors.tensor(&format!("short.{name}.logprobs")) else { continue };
            let expected: Vec<f32> =
                tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
            let (bits, group) = (run["bits"].as_u64().unwrap(), run["group_size"].as_u64().unwrap());
            let kind = KvKind::Mlx { bits: bits as u8, group: group as u8 };
            let path = u32s(&run["ids"]);
            let last = prompt.len() - 1;
            let tokens = [&prompt[last..], &path[..path.len() - 1]].concat();
            let got = logits_after(&model, &prompt[..last], &tokens, KvKind::F32, kind).unwrap();
            let mut worst = 0f64;
            for (got, expected) in got.chunks_exact(vocab).zip(expected.chunks_exact(vocab)) {
                let most = got.iter().copied().fold(f32::MIN, f32::max);
                let sum = got.iter().map(|x| f64::from(x - most).exp()).sum::<f64>().ln();
                let off =
                    got.iter().zip(expected).map(|(g, e)| (f64::from(g - most) - sum - f64::from(*e)).abs());
                worst = off.fold(worst, f64::max);
            }
            // A value on the edge between two codes may fall to either side: a run is exact or off by such a step.
            let step = if bits == 8 { 0.01 } else { 0.1 };
            assert!(worst < step, "{} {name}: off by {worst:.2e}", folder.display());
            runs += 1;
            exact += usize::from(worst < 3e-4);
        }
    }
    assert!(runs >= 10 && exact >= 6, "{exact} of {runs} runs");
}
