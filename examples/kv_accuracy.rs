//! What a packed cache costs: each kind against the f32 cache, on the same text and weights.
//!
//! ```text
//! python3 examples/storyteller/corpus.py --split test --count 280 --jsonl > mixed.jsonl
//! python3 examples/storyteller/corpus.py --split test --count 48 --kind recall --jsonl > recall.jsonl
//! cargo run --release --example kv_accuracy -- mixed.jsonl recall.jsonl [--stressed] [--gpu] [--kinds=A,B] \
//!     [--passkey]
//! ```
//!
//! Teacher-forced: every token is scored given the text before it, all keys and values read from the cache.
//! `--passkey` asks for one number that was told among stories instead: at which depth, in how long a text.
//! `--stressed` first makes the model hard without changing what it computes: pairs of key channels grow by 12 and
//! their query channels shrink as much, channels of values grow by 8 and the output projection's columns shrink.

use safetensors::tensor::TensorView;
use safetensors::{Dtype as Type, SafeTensors};
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use unimlx::internals::Baseline;
use unimlx::{Device, Error, KvKind, LoadOptions, Model, Result, Tokenizer, logits};

const CONTEXT: usize = 2048;
const BUCKETS: [usize; 4] = [256, 512, 1024, 2048];

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (flags, files): (Vec<_>, Vec<_>) = args.iter().partition(|a| a.starts_with("--"));
    let known =
        |flag: &str| ["--stressed", "--gpu", "--passkey"].contains(&flag) || flag.starts_with("--kinds=");
    let ([mixed, recall], true) = (&files[..], flags.iter().all(|flag| known(flag))) else {
        return Err(Error::input(
            "expected MIXED.jsonl RECALL.jsonl [--stressed] [--gpu] [--kinds=A,B] [--passkey]",
        ));
    };
    let wanted: Option<Vec<&str>> =
        flags.iter().find_map(|flag| Some(flag.strip_prefix("--kinds=")?.split(',').collect()));
    let mut folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/storyteller"));
    let tokenizer = Tokenizer::open(&folder)?;
    if flags.iter().any(|flag| *flag == "--stressed") {
        folder = stressed(&folder)?;
    }
    let device = if flags.iter().any(|flag| *flag == "--gpu") { Device::GPU } else { Device::CPU };
    let model = Model::load(&folder, LoadOptions { device: Some(device), ..LoadOptions::default() })?;

    if flags.iter().any(|flag| *flag == "--passkey") {
        let kinds: Vec<KvKind> = KvKind::ALL
            .into_iter()
            .filter(|kind| wanted.as_ref().is_none_or(|w| w.contains(&&*kind.name())))
            .collect();
        return passkeys(&model, &tokenizer, &documents(mixed)?, &kinds);
    }
    let mut texts = packed(&tokenizer, &documents(mixed)?)?;
    for document in documents(recall)? {
        texts.push(one(&tokenizer, &document)?);
    }
    let kinds = [
        KvKind::F16,
        KvKind::Int8,
        KvKind::Plain(8, 8),
        KvKind::Simulated(Baseline::Q8_0),
        KvKind::Mlx { bits: 8, group: 64 },
        KvKind::K8V4,
        KvKind::Int4,
        KvKind::Plain(4, 4),
        KvKind::Simulated(Baseline::Q4_0),
        KvKind::Simulated(Baseline::RotatedQ4_0),
        KvKind::Mlx { bits: 4, group: 64 },
        KvKind::K4V3,
    ];
    let wanted = |kind: &KvKind| wanted.as_ref().is_none_or(|names| names.contains(&kind.name().as_str()));
    let kinds: Vec<KvKind> = kinds.into_iter().filter(wanted).collect();
    let mut scores: Vec<Score> = kinds.iter().map(|_| Score::default()).collect();
    for text in &texts {
        let exact = logits(&model, &text.tokens, &[KvKind::F32])?;
        for (kind, score) in kinds.iter().zip(&mut scores) {
            score.add(text, &exact, &logits(&model, &text.tokens, &[*kind])?);
        }
    }
    let tokens: usize = texts.iter().map(|text| text.tokens.len() - 1).sum();
    println!(
        "{tokens} tokens, {} texts, {}\n",
        texts.len(),
        flags.iter().map(|f| f.as_str()).collect::<String>()
    );
    println!(
        "| kind | bits | perplexity | mean KL | 99.9% KL | same top-1 | perplexity by position | recall |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let config = model.config();
    for (kind, score) in kinds.iter().zip(&mut scores) {
        let heads = (config.num_key_value_heads, config.head_dim);
        let bits = match kind {
            KvKind::Simulated(Baseline::Q8_0) => 8.5,
            KvKind::Simulated(_) => 4.5,
            _ => kind.bytes_per_token(heads.0, heads.1) as f64 * 4.0 / (heads.0 * heads.1) as f64,
        };
        println!("| {kind} | {bits:.2} {}", score.row());
    }
    Ok(())
}

/// Tokens to score, and which of them repeat a number that was told before.
struct Text {
    tokens: Vec<u32>,
    recalled: Vec<bool>,
}

fn documents(file: &str) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(file).map_err(|e| Error::io(format!("{file}: {e}")))?;
    let field = |line: &str| -> Option<String> {
        Some(serde_json::from_str::<Value>(line).ok()?["text"].as_str()?.to_string())
    };
    text.lines()
        .map(|line| field(line).ok_or_else(|| Error::format(format!("{file}: no text in a line"))))
        .collect()
}

/// Documents one after another, in pieces as long as the context.
fn packed(tokenizer: &Tokenizer, documents: &[String]) -> Result<Vec<Text>> {
    let mut all = Vec::new();
    for document in documents {
        all.push(0); // <|endoftext|>
        all.extend(tokenizer.encode(document, false)?);
    }
    let text = |tokens: &[u32]| Text { tokens: tokens.to_vec(), recalled: vec![false; tokens.len()] };
    Ok(all.chunks_exact(CONTEXT).map(text).collect())
}

/// A document whose last paragraph asks for numbers that stood before.
fn one(tokenizer: &Tokenizer, document: &str) -> Result<Text> {
    let (before, question) = document.rsplit_once("\n\n").unwrap_or(("", document));
    let mut tokens = vec![0];
    tokens.extend(tokenizer.encode(&format!("{before}\n\n"), false)?);
    let start = tokens.len();
    tokens.extend(tokenizer.encode(question, false)?);
    tokens.truncate(CONTEXT);
    let mut recalled = vec![false; tokens.len()];
    for (i, flag) in recalled.iter_mut().enumerate().skip(start) {
        let piece = tokenizer.decode(&tokens[i..=i], false)?;
        *flag = piece.trim().parse::<u32>().is_ok();
    }
    Ok(Text { tokens, recalled })
}

/// Tokens of a text with a number told somewhere and asked for at its end.
const LENGTHS: [usize; 4] = [256, 512, 1024, 1900];
const DEPTHS: usize = 5;
const KEYS: usize = 3;

/// Which numbers are recalled whole, by length and by depth, and how likely they are.
fn passkeys(model: &Model, tokenizer: &Tokenizer, documents: &[String], kinds: &[KvKind]) -> Result<()> {
    let sentences: Vec<String> = documents
        .iter()
        .flat_map(|document| document.split_inclusive(". ").map(|s| s.replace('\n', " ")))
        .filter(|s| s.ends_with(". ") && !s.contains("secret"))
        .collect();
    println!(
        "| kind | {} | by depth, first to last | log-likelihood of a number |",
        LENGTHS.map(|n| n.to_string()).join(" | ")
    );
    println!("|---|{}---|---|", "---|".repeat(LENGTHS.len()));
    for &kind in kinds {
        let (mut by_length, mut by_depth, mut likelihood) = ([0; LENGTHS.len()], [0; DEPTHS], 0f64);
        for (at, &length) in LENGTHS.iter().enumerate() {
            for (depth, right) in by_depth.iter_mut().enumerate() {
                for key in 0..KEYS {
                    let seed = (at * DEPTHS + depth) * KEYS + key;
                    let (found, log) = passkey(model, tokenizer, &sentences, kind, length, depth, seed)?;
                    by_length[at] += usize::from(found);
                    *right += usize::from(found);
                    likelihood += log / (LENGTHS.len() * DEPTHS * KEYS) as f64;
                }
            }
        }
        let of = |right: &[usize], all: usize| right.iter().map(|n| format!("{n}/{all}")).collect::<Vec<_>>();
        println!(
            "| {kind} | {} | {} | {likelihood:.4} |",
            of(&by_length, DEPTHS * KEYS).join(" | "),
            of(&by_depth, LENGTHS.len() * KEYS).join(" ")
        );
    }
    Ok(())
}

/// Whether a number is recalled, and its log-likelihood.
fn passkey(
    model: &Model,
    tokenizer: &Tokenizer,
    sentences: &[String],
    kind: KvKind,
    length: usize,
    depth: usize,
    seed: usize,
) -> Result<(bool, f64)> {
    let names = ["Juno", "Nutmeg", "Daisy", "Oakley", "Pickle", "Winnie", "Gwen"];
    let told = format!("The secret number of {} is ", names[seed % names.len()]);
    let number = 10_000 + (seed * 7_919 + 12_345) % 90_000;
    let count = |text: &str| Ok::<_, Error>(tokenizer.encode(text, false)?.len());
    let (mut before, mut left) = (Vec::new(), length.saturating_sub(2 * count(&told)? + 24));
    for sentence in sentences.iter().cycle().skip(seed * 37 % sentences.len()) {
        let n = count(sentence)?;
        if n > left {
            break;
        }
        left -= n;
        before.push(sentence.as_str());
    }
    let fact = format!("{told}{number}. ");
    before.insert(before.len() * depth / (DEPTHS - 1), &fact);
    let text = format!("Memory test.\n\n{}\n\n{told}", before.concat().trim_end());
    let asked = tokenizer.encode(&format!("{text}{number}"), false)?;
    // What the question alone does not have: the number, perhaps with the space before it.
    let question = tokenizer.encode(&text, false)?;
    let same = question.iter().zip(&asked).take_while(|(a, b)| a == b).count();
    let tokens = [&[0], &asked[..]].concat();
    let all = logits(model, &tokens, &[kind])?;
    let vocab = all.len() / tokens.len();
    let (mut found, mut likelihood) = (true, 0.0);
    for i in same..tokens.len() - 1 {
        let p = log_softmax(&all[i * vocab..][..vocab]);
        found &= top(&p) == tokens[i + 1] as usize;
        likelihood += p[tokens[i + 1] as usize];
    }
    Ok((found, likelihood))
}

#[derive(Default)]
struct Score {
    exact_nll: f64,
    nll: f64,
    divergences: Vec<f64>,
    same: usize,
    /// Negative log-likelihoods by position: exact, this kind's, tokens.
    buckets: [(f64, f64, usize); BUCKETS.len()],
    /// Recalled tokens: in all, right by f32, right.
    recall: [usize; 3],
}

fn log_softmax(row: &[f32]) -> Vec<f64> {
    let most = f64::from(row.iter().copied().fold(f32::MIN, f32::max));
    let sum = row.iter().map(|x| (f64::from(*x) - most).exp()).sum::<f64>().ln();
    row.iter().map(|x| f64::from(*x) - most - sum).collect()
}

fn top(row: &[f64]) -> usize {
    (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

impl Score {
    fn add(&mut self, text: &Text, exact: &[f32], got: &[f32]) {
        let vocab = exact.len() / text.tokens.len();
        for i in 0..text.tokens.len() - 1 {
            let p = log_softmax(&exact[i * vocab..][..vocab]);
            let q = log_softmax(&got[i * vocab..][..vocab]);
            let next = text.tokens[i + 1] as usize;
            self.exact_nll -= p[next];
            self.nll -= q[next];
            self.divergences.push(p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum());
            let (best, own) = (top(&p), top(&q));
            self.same += usize::from(best == own);
            let bucket = BUCKETS.iter().position(|&end| i < end).unwrap_or(BUCKETS.len() - 1);
            let b = &mut self.buckets[bucket];
            (b.0, b.1, b.2) = (b.0 - p[next], b.1 - q[next], b.2 + 1);
            if text.recalled[i + 1] {
                self.recall[0] += 1;
                self.recall[1] += usize::from(best == next);
                self.recall[2] += usize::from(own == next);
            }
        }
    }

    fn row(&mut self) -> String {
        let n = self.divergences.len() as f64;
        self.divergences.sort_by(f64::total_cmp);
        let percent = |a: f64, b: f64, n: f64| format!("{:+.3}%", (((b - a) / n).exp() - 1.0) * 100.0);
        let buckets: Vec<String> =
            self.buckets.iter().map(|(a, b, n)| percent(*a, *b, (*n).max(1) as f64)).collect();
        let [all, exact, right] = self.recall;
        format!(
            "| {} | {:.2e} | {:.2e} | {:.2}% | {} | {right}/{all} (f32 {exact}) |",
            percent(self.exact_nll, self.nll, n),
            self.divergences.iter().sum::<f64>() / n,
            self.divergences[(n * 0.999) as usize],
            self.same as f64 / n * 100.0,
            buckets.join(" "),
        )
    }
}

/// A folder with the same model, its attention's weights widened and made hard to quantize after.
fn stressed(folder: &Path) -> Result<PathBuf> {
    let io = |e: std::io::Error| Error::io(e.to_string());
    let other = |e: safetensors::SafeTensorError| Error::format(e.to_string());
    let to = std::env::temp_dir().join(format!("unimlx-stressed-{}", std::process::id()));
    std::fs::create_dir_all(&to).map_err(io)?;
    for file in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(folder.join(file), to.join(file)).map_err(io)?;
    }
    let bytes = std::fs::read(folder.join("model.safetensors")).map_err(io)?;
    let file = SafeTensors::deserialize(&bytes).map_err(other)?;
    let config: Value = serde_json::from_slice(&std::fs::read(folder.join("config.json")).map_err(io)?)
        .map_err(|e| Error::format(e.to_string()))?;
    let size = |name: &str| config[name].as_u64().unwrap_or(0) as usize;
    let (d, heads, kv_heads) = (size("head_dim"), size("num_attention_heads"), size("num_key_value_heads"));
    let group = heads / kv_heads;

    let mut dense: HashMap<String, (Vec<usize>, Vec<u8>)> = HashMap::new();
    for layer in 0..size("num_hidden_layers") {
        // Factors of the channels of key heads and of value heads.
        let (mut keys, mut values) = (vec![1f32; kv_heads * d], vec![1f32; kv_heads * d]);
        for h in 0..kv_heads {
            for i in 0..3 {
                let pair = (layer * 7 + h * 11 + i * 13 + 3) % (d / 2);
                keys[h * d + pair] = 12.0;
                keys[h * d + pair + d / 2] = 12.0;
                values[h * d + (layer * 5 + h * 17 + i * 19) % d] = 8.0;
            }
        }
        for (name, by_row) in [("q_proj", true), ("k_proj", true), ("v_proj", true), ("o_proj", false)] {
            let name = format!("model.layers.{layer}.self_attn.{name}");
            let (shape, mut w) = widened(&file, &name)?;
            for (i, w) in w.iter_mut().enumerate() {
                let channel = if by_row { i / shape[1] } else { i % shape[1] };
                let shared = channel / d / group * d + channel % d;
                *w *= match &name[name.len() - 6..] {
                    "q_proj" => 1.0 / keys[shared],
                    "k_proj" => keys[channel],
                    "v_proj" => values[channel],
                    _ => 1.0 / values[shared],
                };
            }
            dense.insert(name, (shape, bytemuck::cast_slice(&w).to_vec()));
        }
    }
    let mut views: Vec<(String, TensorView<'_>)> = Vec::new();
    for (name, view) in file.tensors() {
        let layer = name.rsplit_once('.').map_or("", |(layer, _)| layer);
        if !dense.contains_key(layer) {
            views.push((name, view));
        }
    }
    for (name, (shape, data)) in &dense {
        views.push((
            format!("{name}.weight"),
            TensorView::new(Type::F32, shape.clone(), data).map_err(other)?,
        ));
    }
    safetensors::serialize_to_file(views, None, &to.join("model.safetensors")).map_err(other)?;
    Ok(to)
}

/// A 4-bit affine weight in groups of 64, or a dense one, as f32.
fn widened(file: &SafeTensors<'_>, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
    let tensor = |part: &str| {
        file.tensor(&format!("{name}.{part}")).map_err(|e| Error::format(format!("{name}.{part}: {e}")))
    };
    let floats = |view: TensorView<'_>| -> Vec<f32> {
        let halves = || view.data().chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
        match view.dtype() {
            Type::BF16 => halves().map(|b| f32::from_bits(u32::from(b) << 16)).collect(),
            Type::F16 => halves().map(|b| half::f16::from_bits(b).to_f32()).collect(),
            _ => view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        }
    };
    let weight = tensor("weight")?;
    let Ok(scales) = tensor("scales") else { return Ok((weight.shape().to_vec(), floats(weight))) };
    let (scales, biases) = (floats(scales), floats(tensor("biases")?));
    let shape = vec![weight.shape()[0], weight.shape()[1] * 8];
    let code = |i: usize| f32::from(weight.data()[i / 2] >> (4 * (i % 2)) & 15);
    let value = |i: usize| scales[i / 64] * code(i) + biases[i / 64];
    Ok((shape.clone(), (0..shape[0] * shape[1]).map(value).collect()))
}
