//! A model folder: configuration and every tensor by name.
//!
//! Opening reads the small files and the header of each weight file, and maps the rest. An index
//! (`model.safetensors.index.json`) is held to its word: each shard must exist and hold what the index
//! says. After that a tensor is a slice of a mapped file, and weights stay as packed as they are stored.

use super::chat_template::ChatTemplate;
use super::config::ModelConfig;
use super::files::{Files, is_plain_name};
use super::generation_config::GenerationConfig;
use super::json::{self, Fields};
use super::quantized::{self, Quantization, QuantizationMode};
use super::safetensors::{SafetensorsFile, TensorView};
use super::tokenizer::Tokenizer;
use crate::dtype::Dtype;
use crate::error::{Context, Error, Result};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

const CONFIG: &str = "config.json";
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// An opened model folder (Hugging Face or MLX): its configuration, and its tensors by name.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    files: Files,
    config: ModelConfig,
    generation_config: GenerationConfig,
    shards: Vec<SafetensorsFile>,
    /// Which shard holds a tensor.
    tensors: BTreeMap<String, usize>,
}

/// The FNV-1a hash: the same on every machine and in every version.
struct Fnv(u64);

impl Fnv {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

impl Checkpoint {
    /// Opens a folder that holds `config.json` and safetensors files. Weights are mapped, not read.
    ///
    /// # Errors
    /// A missing or malformed file, naming it and the field or tensor at fault.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::from_files(Files::folder(path.as_ref())?)
    }

    /// Opens a model whose files are in memory, say by `include_bytes!`: pairs of name and content.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_memory(files: impl IntoIterator<Item = (&'static str, Cow<'static, [u8]>)>) -> Result<Self> {
        Self::from_files(Files::memory(files))
    }

    pub(crate) fn from_files(files: Files) -> Result<Self> {
        let Some(text) = files.read(CONFIG)? else {
            return Err(Error::io(format!(
                "{}: no such file; is this a model folder?",
                files.describe(CONFIG)
            )));
        };
        let mut config = ModelConfig::parse(&files.describe(CONFIG), &text)?;
        let name = "generation_config.json";
        let generation_config = match files.read(name)? {
            Some(text) => GenerationConfig::parse(&files.describe(name), &text)?,
            None => GenerationConfig::default(),
        };
        let (mut shards, mut tensors) = match weight_map(&files)? {
            Some(map) => open_indexed(&files, map)?,
            None => open_all(&files)?,
        };
        if let Some(usual) = usual_names(&tensors) {
            shards.iter_mut().for_each(|shard| shard.rename(usual));
            tensors = tensors.into_iter().map(|(name, shard)| (usual(&name), shard)).collect();
            if let Some(quantization) = &mut config.quantization {
                quantization.rename(usual);
            }
        }
        if !config.tie_is_stated {
            config.tie_word_embeddings = !tensors.contains_key("lm_head.weight");
        }
        Ok(Self { files: files.clone(), config, generation_config, shards, tensors })
    }

    /// The checked `config.json`.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The checked `generation_config.json`; empty if there is none.
    pub fn generation_config(&self) -> &GenerationConfig {
        &self.generation_config
    }

    /// The configuration file's name in errors.
    pub(crate) fn config_name(&self) -> String {
        self.files.describe(CONFIG)
    }

    /// The tokenizer that belongs to the model.
    ///
    /// # Errors
    /// As [`Tokenizer::open`].
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        Tokenizer::from_files(&self.files)
    }

    /// The model's chat template, if it has one.
    ///
    /// # Errors
    /// As [`ChatTemplate::open`].
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>> {
        ChatTemplate::from_files(&self.files)
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Bytes of all tensors together, as stored.
    pub fn total_bytes(&self) -> usize {
        self.tensors.iter().map(|(name, &shard)| self.shards[shard].byte_len(name)).sum()
    }

    /// A hash that tells checkpoints apart: of the configuration, and of each tensor's name, type, shape, and first and
    /// last bytes.
    pub(crate) fn fingerprint(&self) -> String {
        let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
        hash.add(self.config.raw().to_string().as_bytes());
        for name in self.names() {
            let stored = self.tensors.get(name).and_then(|&shard| self.shards[shard].stored(name));
            let Some((dtype, shape, bytes)) = stored else { continue };
            hash.add(format!("{name} {dtype} {shape:?}").as_bytes());
            hash.add(&bytes[..bytes.len().min(64)]);
            hash.add(&bytes[bytes.len().saturating_sub(64)..]);
        }
        format!("{:016x}", hash.0)
    }

    /// A tensor's type, shape and bytes.
    ///
    /// # Errors
    /// There is none of this name, or its dtype is not one that this crate computes with.
    pub fn tensor(&self, name: &str) -> Result<TensorView> {
        match self.tensors.get(name) {
            Some(&shard) => self.shards[shard].tensor(name),
            None => Err(Error::format(format!("{}: no tensor `{name}`", self.weights_name()))),
        }
    }

    /// A tensor that must have this shape.
    pub(crate) fn tensor_of_shape(&self, name: &str, shape: &[usize]) -> Result<TensorView> {
        let tensor = self.tensor(name)?;
        if tensor.shape != shape {
            return Err(self.wrong_shape(&tensor, shape));
        }
        Ok(tensor)
    }

    /// How `<module>.weight` is packed: `None` if it is not, that is, if there is no `<module>.scales`.
    ///
    /// # Errors
    /// Weight, scales and biases do not have the types and shapes that the configuration claims, or
    /// the mode is not supported.
    pub fn quantization_of(&self, module: &str) -> Result<Option<Quantization>> {
        let scales_name = format!("{module}.scales");
        if !self.has(&scales_name) {
            return Ok(None);
        }
        let weight = self.tensor(&format!("{module}.weight"))?;
        let scales = self.tensor(&scales_name)?;
        if weight.dtype != Dtype::U32 {
            return Err(
                self.wrong(&weight, format_args!("dtype {}, but packed weights are u32", weight.dtype))
            );
        }
        let (Some((&words, rows)), Some((&groups, scale_rows))) =
            (weight.shape.split_last(), scales.shape.split_last())
        else {
            return Err(self.wrong(&weight, "a scalar cannot be a packed weight"));
        };
        let quantization = match &self.config.quantization {
            Some(config) => config.of(module).ok_or_else(|| {
                self.wrong(&scales, format_args!("exists, but {CONFIG} says that `{module}` is not quantized"))
            })?,
            None => quantized::infer(words, groups).ok_or_else(|| {
                self.wrong(&scales, format_args!(
                    "shapes {:?} and, of the weight, {:?} fit no or several formats, and {CONFIG} has no `quantization`",
                    scales.shape, weight.shape
                ))
            })?,
        };
        if quantization.mode != QuantizationMode::Affine {
            let what = format!(
                "{}: `{module}` is quantized as {}, which is not supported",
                self.weights_name(),
                quantization.mode
            );
            return Err(Error::unsupported(what));
        }
        if !scales.dtype.is_float() {
            return Err(
                self.wrong(&scales, format_args!("dtype {}, but scales are floating point", scales.dtype))
            );
        }
        let row_bits = groups.checked_mul(quantization.bits * quantization.group_size);
        if rows != scale_rows || words.checked_mul(32) != row_bits {
            return Err(self.wrong(
                &scales,
                format_args!(
                    "shape {:?} does not belong to packed weight of shape {:?} ({quantization})",
                    scales.shape, weight.shape
                ),
            ));
        }
        let biases = self.tensor(&format!("{module}.biases"))?;
        if biases.shape != scales.shape {
            return Err(self.wrong_shape(&biases, &scales.shape));
        }
        if biases.dtype != scales.dtype {
            return Err(
                self.wrong(&biases, format_args!("dtype {}, but scales are {}", biases.dtype, scales.dtype))
            );
        }
        Ok(Some(quantization))
    }

    /// The weights' name in errors.
    fn weights_name(&self) -> String {
        match self.shards.as_slice() {
            [one] => one.file().to_owned(),
            _ => self.files.describe("*.safetensors"),
        }
    }

    /// An error about a tensor, naming its file.
    pub(crate) fn wrong(&self, tensor: &TensorView, message: impl std::fmt::Display) -> Error {
        let file = self.tensors.get(&tensor.name).map_or("?", |&shard| self.shards[shard].file());
        Error::format(format!("{file}: tensor `{}`: {message}", tensor.name))
    }

    fn wrong_shape(&self, tensor: &TensorView, wanted: &[usize]) -> Error {
        self.wrong(tensor, format_args!("shape {:?}, expected {wanted:?}", tensor.shape))
    }
}

/// What turns a folder's tensor names into those that architectures ask for, if they differ: embedding models are
/// published without `model.`, and language models that were part of another with `language_model.`.
fn usual_names(tensors: &BTreeMap<String, usize>) -> Option<fn(&str) -> String> {
    let has = |name: &str| tensors.contains_key(name);
    if has("model.embed_tokens.weight") {
        None
    } else if has("embed_tokens.weight") {
        Some(|name| match name.split('.').next() {
            Some("lm_head") => name.into(),
            _ => format!("model.{name}"),
        })
    } else if has("language_model.model.embed_tokens.weight") {
        Some(|name| name.strip_prefix("language_model.").unwrap_or(name).into())
    } else if has("model.language_model.embed_tokens.weight") {
        Some(|name| name.replacen("model.language_model.", "model.", 1))
    } else {
        None
    }
}

/// The index: tensor to file. `None` without one, or if it is a leftover beside a single whole file.
fn weight_map(files: &Files) -> Result<Option<BTreeMap<String, String>>> {
    let Some(text) = files.read(INDEX)? else { return Ok(None) };
    let file = files.describe(INDEX);
    let value = json::parse(&file, &text)?;
    let fields = Fields::top(&file, &value)?;
    let map: Option<BTreeMap<String, String>> = fields.optional("weight_map")?;
    let map = map.ok_or_else(|| fields.missing("weight_map"))?;
    if files.has(SINGLE) && !map.values().any(|shard| shard == SINGLE) {
        log::debug!("{file} does not mention {SINGLE}, which is used instead");
        return Ok(None);
    }
    Ok(Some(map))
}

type Opened = (Vec<SafetensorsFile>, BTreeMap<String, usize>);

fn open_shard(files: &Files, name: &str) -> Result<SafetensorsFile> {
    SafetensorsFile::parse(files.describe(name), files.map(name)?)
}

fn open_indexed(files: &Files, map: BTreeMap<String, String>) -> Result<Opened> {
    let index = files.describe(INDEX);
    let mut shards = Vec::new();
    let mut opened = BTreeMap::new();
    let mut tensors = BTreeMap::new();
    for (tensor, shard) in map {
        let at = match opened.get(&shard) {
            Some(&at) => at,
            None => {
                if !is_plain_name(&shard) {
                    return Err(Error::format(format!(
                        "{index}: tensor `{tensor}`: shard name `{shard}` leaves the folder"
                    )));
                }
                let file =
                    open_shard(files, &shard).with_context(|| format!("{index}: tensor `{tensor}`"))?;
                shards.push(file);
                opened.insert(shard.clone(), shards.len() - 1);
                shards.len() - 1
            }
        };
        if !shards[at].has(&tensor) {
            return Err(Error::format(format!("{index}: tensor `{tensor}` is not in {}", shards[at].file())));
        }
        tensors.insert(tensor, at);
    }
    Ok((shards, tensors))
}

/// Without an index: `model.safetensors`, else each `model*.safetensors`, else each `*.safetensors`.
fn open_all(files: &Files) -> Result<Opened> {
    let mut names = if files.has(SINGLE) { vec![SINGLE.to_owned()] } else { files.names()? };
    names.retain(|name| name.ends_with(".safetensors"));
    if names.iter().any(|name| name.starts_with("model")) {
        names.retain(|name| name.starts_with("model"));
    }
    if names.is_empty() {
        let others =
            |name: &String| name.ends_with(".bin") || name.ends_with(".gguf") || name.ends_with(".pth");
        let why = match files.names()?.into_iter().find(others) {
            Some(other) => format!("; {other} cannot be read"),
            None => String::new(),
        };
        return Err(Error::io(format!(
            "{}: no such file, and no other *.safetensors{why}",
            files.describe(SINGLE)
        )));
    }
    let mut shards: Vec<SafetensorsFile> = Vec::new();
    let mut tensors: BTreeMap<String, usize> = BTreeMap::new();
    for name in &names {
        let shard = open_shard(files, name)?;
        for tensor in shard.names() {
            if let Some(before) = tensors.insert(tensor.to_owned(), shards.len()) {
                return Err(Error::format(format!(
                    "{}: tensor `{tensor}` is also in {}",
                    shard.file(),
                    shards[before].file()
                )));
            }
        }
        shards.push(shard);
    }
    Ok((shards, tensors))
}
