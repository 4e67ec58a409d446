//! The binary as its users meet it: what it prints, where, and the exit code. Nothing here needs a GPU.
#![cfg(feature = "cli")]

use safetensors::SafeTensors;
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/storyteller");
const GREEDY: [&str; 8] = ["generate", "--tokens", "1,2,3", "--temp", "0", "-n", "5", "--ignore-eos"];

/// The command without what the caller's environment would say to it, and without any Vulkan driver.
fn unimlx(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unimlx"));
    for name in ["UNIMLX_MODEL", "UNIMLX_DEVICE", "UNIMLX_KV", "UNIMLX_LOG"] {
        command.env_remove(name);
    }
    command.args(args).env("VK_DRIVER_FILES", "/nonexistent").stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    unimlx(args).output().unwrap()
}

fn run_with_input(args: &[&str], input: impl AsRef<[u8]>) -> Output {
    let mut command = unimlx(args);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_ref()).unwrap();
    child.wait_with_output().unwrap()
}

fn out(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn err(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// Standard output of a run that must succeed.
#[track_caller]
fn succeeds(args: &[&str]) -> String {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {}", err(&output));
    out(&output).to_string()
}

#[track_caller]
fn json(args: &[&str]) -> Value {
    let text = succeeds(args);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{args:?}: {e}: {text}"))
}

/// A run that must end with this code and one line on standard error that holds all of `words`.
#[track_caller]
fn fails(args: &[&str], code: i32, words: &[&str]) {
    let output = run(args);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {}", err(&output));
    assert_eq!(out(&output), "", "{args:?}");
    let text = err(&output);
    assert_eq!(text.lines().count(), 1, "{args:?}: {text}");
    for word in words {
        assert!(text.contains(word), "{args:?}: `{word}` is not in: {text}");
    }
    assert!(!text.contains("panicked") && !text.contains("RUST_BACKTRACE"), "{args:?}: {text}");
}

/// A copy of the shipped model without one file.
fn copy_without(left_out: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let names = [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    for name in names.into_iter().filter(|name| *name != left_out) {
        fs::copy(Path::new(MODEL).join(name), folder.path().join(name)).unwrap();
    }
    folder
}

/// Greedy generation with a folder, which must end with code 3.
#[track_caller]
fn refuses(folder: &TempDir, words: &[&str]) {
    let folder = folder.path().to_str().unwrap();
    fails(&[&GREEDY[..], &["--device", "cpu", "-m", folder]].concat(), 3, words);
}

#[test]
fn generate_prints_one_json_object() {
    let args = [&GREEDY[..], &["--json", "--device", "cpu"]].concat();
    let (first, second) = (json(&args), json(&args));
    assert_eq!(succeeds(&args).lines().count(), 1);
    assert_eq!(first["ids"].as_array().unwrap().len(), 5);
    assert!(first["ids"].as_array().unwrap().iter().all(Value::is_u64));
    assert_eq!(first["ids"], second["ids"]);
    assert_eq!(first["device"], "CPU");
    // The folder and what is built in are the same model.
    assert_eq!(json(&[&args[..], &["-m", MODEL]].concat())["ids"], first["ids"]);
}

#[test]
fn without_arguments_a_story_is_told() {
    let output = run(&["generate", "-n", "30"]);
    assert!(output.status.success());
    assert!(out(&output).starts_with("Once upon a time"), "{}", out(&output));
    assert!(err(&output).contains("tokens/s"), "{}", err(&output));
}

#[test]
fn prompts_come_from_arguments_files_and_pipes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompt.txt");
    let path = file.to_str().unwrap();
    fs::write(&file, "One day, a fox").unwrap();
    fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
        [&["generate", "--device", "cpu", "--temp", "0", "-n", "8"], more].concat()
    }

    let told = succeeds(&with(&["-p", "One day, a fox"]));
    assert!(told.starts_with("One day, a fox") && told.len() > 20, "{told}");
    assert_eq!(succeeds(&with(&["-f", path])), told);
    for input in [["-p", "-"], ["-f", "-"]] {
        assert_eq!(out(&run_with_input(&with(&input), "One day, a fox")), told);
    }
    assert_eq!(out(&run_with_input(&with(&["-m", MODEL]), "One day, a fox")), told);

    fails(&with(&["-f", "/nonexistent"]), 1, &["/nonexistent"]);
    fs::write(&file, [0xff, 0xfe, 0x00]).unwrap();
    fails(&with(&["-f", path]), 2, &["prompt.txt", "UTF-8"]);
}

#[test]
fn nothing_to_generate_and_nothing_to_read() {
    let none = json(&["generate", "--device", "cpu", "-n", "0", "--json"]);
    assert_eq!((&none["ids"], &none["text"]), (&Value::Array(vec![]), &Value::from("")));
    fails(&["generate", "-p", ""], 2, &["the prompt is empty"]);
}

#[test]
fn a_prompt_longer_than_the_context_names_both_lengths() {
    let ids = ["7"; 2050].join(",");
    fails(&["generate", "--device", "cpu", "--tokens", &ids], 2, &["2050", "2048"]);
    // Of a text so long only the beginning is tokenized.
    let output = run_with_input(&["generate", "-p", "-"], "a story ".repeat(1 << 20));
    assert_eq!(output.status.code(), Some(2));
    assert!(err(&output).contains("at least") && err(&output).contains("2048"), "{}", err(&output));
}

#[test]
fn chat_answers_line_by_line() {
    let input = "What is 3 plus 4?\n\n/clear\nWhat is 3 plus 4?\n/exit\nnot read\n";
    let output = run_with_input(&["chat", "--device", "cpu"], input);
    assert!(output.status.success(), "{}", err(&output));
    assert_eq!(out(&output), "3 plus 4 is 7.\n3 plus 4 is 7.\n");
    assert_eq!(
        succeeds(&["generate", "--device", "cpu", "--chat", "-p", "What is 3 plus 4?"]).trim(),
        "3 plus 4 is 7."
    );
    let output = run_with_input(&["chat", "--device", "cpu"], b"\xff\xfe\n");
    assert_eq!(output.status.code(), Some(2));
    assert!(err(&output).contains("standard input: not UTF-8 text"), "{}", err(&output));
    let long = "Once upon a time there was a little girl who had a red ball. ".repeat(20) + "\n";
    let output = run_with_input(&["chat", "--device", "cpu", "-n", "8"], long.repeat(12));
    assert!(output.status.success(), "{}", err(&output));
    assert!(err(&output).contains("2 oldest messages are forgotten"), "{}", err(&output));
    assert!(!err(&output).contains("unimlx:"), "{}", err(&output));
    let output = run(&["chat", "--device", "cpu", "--temp", "-1"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(err(&output).contains("temperature is -1"), "{}", err(&output));
}

#[test]
fn stop_strings_end_the_text() {
    let args = ["generate", "--device", "cpu", "--json", "--stop", "little"];
    let told = json(&args);
    assert_eq!(told["finish_reason"], "stop");
    assert!(!told["text"].as_str().unwrap().contains("little"), "{told}");
}

#[test]
fn logits_are_written_as_a_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out.safetensors");
    let path = file.to_str().unwrap();
    let printed = json(&["logits", "--device", "cpu", "--tokens", "1,2,3", "-o", path, "--json"]);
    assert_eq!(printed["shape"], serde_json::json!([3, 4096]));
    let bytes = fs::read(&file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let logits = tensors.tensor("logits").unwrap();
    assert_eq!((logits.dtype(), logits.shape()), (safetensors::Dtype::F32, &[3, 4096][..]));
    let values = logits.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
    // The last row's largest is the first token of the greedy answer.
    let last: Vec<f32> = values.skip(2 * 4096).collect();
    assert!(last.iter().all(|v| v.is_finite()));
    let best = (0..4096).max_by(|&a, &b| last[a].total_cmp(&last[b])).unwrap();
    let ids = &json(&[&GREEDY[..], &["--json", "--device", "cpu"]].concat())["ids"];
    assert_eq!(ids[0].as_u64(), Some(best as u64));

    let to = |path| ["logits", "--device", "cpu", "--tokens", "1", "-o", path];
    fails(&to("/nonexistent/x"), 1, &["/nonexistent/x", "there is no folder"]);
    fails(&to("/"), 1, &["/", "is a folder"]);
    // What is there, say a pipe, is written to, not replaced.
    #[cfg(unix)]
    {
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        succeeds(&to(link.to_str().unwrap()));
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink() && fs::read(&file).unwrap() != bytes);
    }
    fails(&["logits", "--device", "cpu", "--tokens", "4096", "-o", path], 2, &["4096"]);
}

#[test]
fn bad_models_are_refused_in_one_line() {
    fails(&["generate", "-m", "/nonexistent"], 3, &["/nonexistent"]);
    fails(&["fit", "-m", "/nonexistent"], 3, &["/nonexistent"]);
    let folder = copy_without("config.json");
    refuses(&folder, &["config.json"]);
    fs::write(folder.path().join("config.json"), "{ \"model_type\": ").unwrap();
    refuses(&folder, &["config.json"]);
    fs::write(folder.path().join("config.json"), "[1, 2]").unwrap();
    refuses(&folder, &["config.json"]);

    let config = fs::read_to_string(Path::new(MODEL).join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["model_type"] = "abacus".into();
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    refuses(&folder, &["config.json", "model_type", "abacus", "llama"]);
    for command in ["fit", "info"] {
        let text = succeeds(&[command, "-m", folder.path().to_str().unwrap()]);
        assert!(text.contains("annot be loaded") && text.contains("abacus"), "{text}");
    }
    (config["model_type"], config["hidden_act"]) = ("llama".into(), "sine".into());
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    refuses(&folder, &["config.json", "hidden_act", "sine"]);
    assert!(succeeds(&["fit", "-m", folder.path().to_str().unwrap()]).contains("`hidden_act` `sine`"));

    refuses(&copy_without("model.safetensors"), &["model.safetensors"]);
    let folder = copy_without("model.safetensors");
    let weights = fs::read(Path::new(MODEL).join("model.safetensors")).unwrap();
    for length in [0, 7, 1000, weights.len() - 1] {
        fs::write(folder.path().join("model.safetensors"), &weights[..length]).unwrap();
        refuses(&folder, &["model.safetensors"]);
    }

    let folder = copy_without("tokenizer.json");
    let path = folder.path().to_str().unwrap();
    fails(&["generate", "-m", path, "-p", "hello"], 3, &["tokenizer"]);
    // Ids need no tokenizer.
    let ids = succeeds(&[&GREEDY[..], &["--device", "cpu", "-m", path]].concat());
    assert_eq!(ids.split_whitespace().filter(|id| id.parse::<u32>().is_ok()).count(), 5, "{ids}");
}

#[test]
fn bad_arguments_have_a_code_of_their_own() {
    let bad: [&[&str]; 13] = [
        &[],
        &["sing"],
        &["generate", "--bogus"],
        &["generate", "-n", "many"],
        &["generate", "--tokens", "1,x"],
        &["generate", "--threads", "0"],
        &["generate", "--threads", "100000"],
        &["generate", "--tokens", "1", "-p", "both"],
        &["fit", "-c", "0"],
        &["fit", "--memory", "-3"],
        &["logits", "--tokens", "1"],
        &["logits", "--tokens", "1", "-o", "-"],
        &["generate", "--prompt-cache", "-"],
    ];
    for args in bad {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", err(&output));
        assert!(!err(&output).contains("panicked"), "{args:?}: {}", err(&output));
    }
    let cpu = ["generate", "--device", "cpu"];
    fails(&[&cpu[..], &["--temp", "-1"]].concat(), 2, &["temperature", "-1"]);
    fails(&[&cpu[..], &["--top-p", "1.5"]].concat(), 2, &["top_p", "1.5"]);
    let kinds = ["int8"; 9].join(",");
    for command in ["generate", "chat", "bench"] {
        fails(&[command, "--device", "cpu", "--kv", &kinds], 2, &["9 KV cache kinds", "7 layers"]);
    }
    fails(&[&cpu[..], &["--tokens", "99999"]].concat(), 2, &["99999", "4096"]);
}

#[test]
#[cfg(target_os = "linux")]
fn without_vulkan_the_cpu_computes_and_says_so_once() {
    fails(&["generate", "--device", "gpu"], 4, &["no GPU adapter"]);
    let output = run(&[&GREEDY[..], &["--json"]].concat());
    assert!(output.status.success());
    assert_eq!(err(&output).lines().count(), 1, "{}", err(&output));
    assert!(err(&output).contains("computing on the CPU"), "{}", err(&output));
    let ids = |output: &Output| serde_json::from_str::<Value>(out(output)).unwrap()["ids"].clone();
    assert_eq!(ids(&output), json(&[&GREEDY[..], &["--json", "--device", "cpu"]].concat())["ids"]);
    assert!(json(&["info", "--json"])["gpu"]["missing"].is_string());
}

#[test]
#[cfg(unix)]
fn a_reader_that_leaves_is_no_trouble() {
    let mut command = unimlx(&["generate", "--device", "cpu", "-n", "400", "--ignore-eos"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(err(&output), "");
}

#[test]
fn bench_prints_one_object_per_kind_of_work() {
    let bench = ["bench", "--device", "cpu", "-r", "2", "-o", "json"];
    let rows = |more: &[&str]| -> Vec<Value> {
        let text = succeeds(&[&bench[..], more].concat());
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let tests =
        |rows: &[Value]| rows.iter().map(|r| r["test"].as_str().unwrap().to_string()).collect::<Vec<_>>();
    let some = rows(&["-p", "8", "-n", "4"]);
    assert_eq!(tests(&some), ["pp8", "tg4"]);
    for row in &some {
        let (mean, median) = (row["mean"].as_f64().unwrap(), row["median"].as_f64().unwrap());
        assert!(mean > 0.0 && median > 0.0, "{row}");
        let (steps, seconds) =
            (row["generated"].as_f64().unwrap().max(1.0), row["seconds"].as_array().unwrap());
        let total: f64 = seconds.iter().map(|s| s.as_f64().unwrap()).sum();
        let per_step = row["ms_per_step"].as_f64().unwrap();
        assert!((per_step - 1e3 * total / 2.0 / steps).abs() < 1e-6 * per_step, "{row}");
        assert_eq!((seconds.len(), &row["gpu_ms_per_step"], &row["fused"]), (2, &Value::Null, &true.into()));
    }
    let many = rows(&["-p", "8,0,16", "-n", "4", "-d", "0,20", "--no-fuse"]);
    assert_eq!(tests(&many), ["pp8", "pp16", "tg4", "pp8 @ d20", "pp16 @ d20", "tg4 @ d20"]);
    assert_eq!(many[5]["fused"], false);

    let cpu = ["bench", "--device", "cpu", "-p", "4", "-n", "2", "-r", "1"];
    let csv = succeeds(&[&cpu[..], &["-o", "csv"]].concat());
    assert!(csv.starts_with("model,") && csv.lines().count() == 3 && csv.contains("\"tg2\""), "{csv}");
    let md = succeeds(&[&cpu[..], &["-o", "md"]].concat());
    assert!(md.starts_with("| model |") && md.lines().count() == 4, "{md}");
    assert!(succeeds(&cpu).contains("storyteller"));

    fails(&["bench", "--device", "cpu", "-d", "5000"], 2, &["5512", "2048"]);
    fails(&["bench", "--device", "cpu", "-d", "0,5000", "-p", "1"], 2, &["5129", "2048"]);
    fails(&["bench", "--device", "cpu", "-p", "0", "-n", "0"], 2, &["nothing to measure"]);
    fails(&["bench", "--device", "cpu", "-r", "0"], 2, &["0 repetitions"]);
    fails(&["bench", "--device", "cpu", "-b", "9"], 2, &["a batch of 9", "1 to 8"]);
    let together = succeeds(&[&cpu[..], &["-p", "0", "-b", "1,3"]].concat());
    assert!(together.contains("tg2 x 3"), "{together}");
    fails(&["bench", "--device", "cpu", "--tune"], 2, &["nothing to tune", "CPU"]);
    fails(&["bench", "--gemm", "8,8"], 2, &["M,N,K", "not 2"]);
    fails(&["bench", "--gemm", "8,0,8"], 2, &["nothing to multiply"]);
    fails(&["bench", "--device", "cpu", "--gemm", "8,8,8"], 2, &["--gemm", "a GPU", "cpu"]);
    fails(&["bench", "--device", "cpu", "--roof"], 2, &["--roof", "a GPU", "cpu"]);
    assert_eq!(run(&["bench", "--gemm", "8,8,8", "--first", "4"]).status.code(), Some(2));
    assert_eq!(run(&["bench", "--first", "4", "--temp", "1"]).status.code(), Some(2));
    fails(&["bench", "--device", "cpu", "--first", "5000"], 2, &["5000", "2048"]);
}

#[test]
fn bench_times_the_first_token() {
    let text = succeeds(&["bench", "--device", "cpu", "--first", "5", "-o", "json"]);
    let row: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&row["prompt"], &row["compiled"], &row["gpu_ms"]), (&5.into(), &0.into(), &Value::Null));
    let ms = |field: &str| row[field].as_f64().unwrap();
    let parts = ms("planning_ms") + ms("trials_ms") + ms("pipelines_ms");
    assert!(0.0 < ms("again_ms") && parts < ms("first_ms"), "{row}");
}

#[test]
fn bench_makes_models_of_a_shape() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.json");
    let path = file.to_str().unwrap();
    let shape = r#"{"model_type": "qwen2", "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 320, "tie_word_embeddings": false,
        "max_position_embeddings": 64}"#;
    fs::write(&file, shape).unwrap();
    let with = |more: &[&'static str]| -> Vec<String> {
        let args =
            ["bench", "--device", "cpu", "-p", "4", "-n", "2", "-r", "1", "-o", "json", "--config", path];
        args.iter().chain(more).map(ToString::to_string).collect()
    };
    // Embedding and head; q, k, v, o, gate, up, down of two layers.
    let matrices = 2 * 320 * 128 + 2 * (2 * 128 * 128 + 2 * 64 * 128 + 3 * 192 * 128);
    let rest = 2 * (2 * 128 + 128 + 2 * 64) + 128; // norms and the biases of q, k, v
    for (quant, bytes) in [
        (&[][..], 2 * (matrices + rest)),
        (&["--quant", "f32"], 4 * (matrices + rest)),
        (&["--quant", "8bit"], matrices + matrices / 64 * 4 + 2 * rest),
        (&["--quant", "3bit-g32"], matrices / 8 * 3 + matrices / 32 * 4 + 2 * rest),
    ] {
        let args = with(quant);
        let text = succeeds(&args.iter().map(String::as_str).collect::<Vec<_>>());
        let row: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(row["bytes"], bytes, "{quant:?}");
    }
    let refuse = |more: &[&'static str], code, words: &[&str]| {
        let args = with(more);
        fails(&args.iter().map(String::as_str).collect::<Vec<_>>(), code, words);
    };
    refuse(&["--quant", "7bit"], 2, &["7bit", "4bit", "bf16"]);
    refuse(&["--quant", "4bit-g128", "-d", "60"], 3, &["groups of 128", "rows of 192"]);
    refuse(&["-d", "62"], 2, &["66", "64"]);
    refuse(&["-m", MODEL], 2, &["-m", "--config"]);
    refuse(&["--profile"], 4, &["--profile", "timestamps"]);
    fails(&["bench", "--config", "llama-9b"], 2, &["llama-9b", "llama-8b", "qwen3-4b", "mistral-7b"]);
    assert_eq!(run(&["bench", "--quant", "4bit"]).status.code(), Some(2));
    fs::write(&file, "{").unwrap();
    refuse(&[], 3, &["config.json"]);
}

#[test]
fn unfused_is_the_same_text() {
    let args = [&GREEDY[..], &["--json", "--device", "cpu"]].concat();
    assert_eq!(json(&args)["ids"], json(&[&args[..], &["--no-fuse"]].concat())["ids"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out.safetensors");
    succeeds(&["logits", "--device", "cpu", "--no-fuse", "--tokens", "1", "-o", file.to_str().unwrap()]);
}

#[test]
fn info_and_fit_print_json() {
    let info = json(&["info", "--json"]);
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    assert!(info["cpu"]["threads"].as_u64().unwrap() > 0);
    assert!(succeeds(&["info"]).contains("cpu"));

    let of_model = json(&["info", "--json", "-m", MODEL]);
    let model = &of_model["model"];
    assert_eq!((&model["type"], &model["context"]), (&"llama".into(), &2048.into()));
    assert_eq!(
        model["kinds"][0]["kv_bytes_per_token"],
        2 * model["kinds"][1]["kv_bytes_per_token"].as_u64().unwrap()
    );
    let table = succeeds(&["info", "-m", MODEL]);
    assert!(table.contains("4 bit affine in groups of 64") && table.contains("kv k4v3"), "{table}");
    fails(&["info", "-m", "/nonexistent"], 3, &["/nonexistent"]);

    let fit = json(&["fit", "--json", "-c", "1000", "--memory", "1"]);
    assert_eq!((&fit["context"], &fit["memory_bytes"]), (&1000.into(), &1_000_000_000.into()));
    assert!(fit["weight_bytes"].as_u64().unwrap() > 5_000_000);
    let kinds = fit["kinds"].as_array().unwrap();
    let bytes = |name: &str| kinds.iter().find(|k| k["kv"] == name).unwrap()["kv_bytes"].as_u64().unwrap();
    assert_eq!(bytes("f32"), 2 * bytes("f16"));
    // As `bench` has them when they are made, in units of 1e6 bytes.
    for (config, quant, mb) in
        [("llama-1b", "4bit", 695.2), ("llama-1b", "bf16", 2470.0), ("llama-8b", "8bit", 8530.0)]
    {
        let fit = json(&["fit", "--json", "--config", config, "--quant", quant]);
        let weights = fit["weight_bytes"].as_f64().unwrap() / 1e6;
        assert!((weights / mb - 1.0).abs() < 1e-3, "{config} {quant}: {weights}");
    }
    assert!(succeeds(&["fit"]).contains("context that fits"));
    let beyond = succeeds(&["fit", "-c", "4000"]);
    assert!(beyond.contains("4000 tokens, but the model's own limit is 2048"), "{beyond}");
    assert_eq!(json(&["fit", "--json", "-c", "4000"])["model_context"], 2048);
}

#[test]
fn a_prompt_is_kept_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompt.safetensors");
    let file = file.to_str().unwrap();
    let run = |tokens| {
        json(&[
            "generate",
            "--temp",
            "0",
            "-n",
            "4",
            "--json",
            "--tokens",
            tokens,
            "--kv",
            "int8",
            "--prompt-cache",
            file,
        ])
    };
    let first = run("1,2,3,4,5,6");
    assert!(fs::metadata(file).unwrap().len() > 1000);
    let (again, more) = (run("1,2,3,4,5,6"), run("1,2,3,4,5,6,7"));
    assert_eq!(first["ids"], again["ids"]);
    assert_eq!((&first["prompt_tokens"], &first["cached_tokens"]), (&6.into(), &0.into()));
    assert_eq!((&more["prompt_tokens"], &more["cached_tokens"]), (&7.into(), &6.into()));
    fails(
        &["generate", "--device", "cpu", "--tokens", "1,2", "--kv", "int4", "--prompt-cache", file],
        2,
        &["kind", "int8", "int4"],
    );
}
