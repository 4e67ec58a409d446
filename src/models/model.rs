//! [`Model`]: a checkpoint that can run.

use super::loader;
use crate::array::{Device, MLXArray};
use crate::dtype::Dtype;
use crate::error::{Context, Error, Result};
use crate::gpu::Caps;
use crate::io::{Checkpoint, GenerationConfig, ModelConfig};
use crate::kv_quantization::{KvCache, KvKind, Sample, Turning};
use crate::nn::{
    Decoder, Progress, Report, Rope, SelfAttention, Source, Step, Synthetic, Weights, activation,
};
use crate::ops;
use crate::plan::{Program, TunedShape, recording_for, tune};
use std::cell::RefCell;
use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// How to load a model.
#[derive(Default)]
pub struct LoadOptions<'a> {
    /// Where it will run; by default [`Device::best`].
    pub device: Option<Device>,
    /// Called after each tensor with bytes done and in all; `Break` cancels.
    pub progress: Option<&'a mut Report<'a>>,
}

impl fmt::Debug for LoadOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadOptions").field("device", &self.device).finish_non_exhaustive()
    }
}

/// What every architecture can do: build the graph of a pass.
pub(crate) trait Architecture: Send + Sync {
    /// `ids` `[t]` u32 -> `[t, hidden]`, writing keys and values into the cache.
    fn hidden(&self, ids: &MLXArray, step: &Step<'_>) -> MLXArray;

    /// A layer's output projection: results of its heads `[t, heads * head_dim] -> [t, hidden]`
    fn project(&self, layer: usize, o: &MLXArray) -> MLXArray;

    /// The final norm, `[t, hidden] -> [t, hidden]`
    fn normed(&self, hidden: &MLXArray) -> MLXArray;

    /// `[t, hidden] -> [t, vocab]`, final norm included.
    fn logits(&self, hidden: &MLXArray) -> MLXArray;
}

impl<A: SelfAttention> Architecture for Decoder<A> {
    fn hidden(&self, ids: &MLXArray, step: &Step<'_>) -> MLXArray {
        Decoder::hidden(self, ids, step)
    }

    fn project(&self, layer: usize, o: &MLXArray) -> MLXArray {
        Decoder::project(self, layer, o)
    }

    fn normed(&self, hidden: &MLXArray) -> MLXArray {
        Decoder::normed(self, hidden)
    }

    fn logits(&self, hidden: &MLXArray) -> MLXArray {
        Decoder::logits(self, hidden)
    }
}

/// A language model on a device. Clone is free; `Send + Sync`.
///
/// ```no_run
/// use unimlx::{GenerateOptions, Generator, LoadOptions, Model, Tokenizer};
/// # fn main() -> unimlx::Result<()> {
/// let model = Model::load("path/to/model", LoadOptions::default())?;
/// let tokenizer = Tokenizer::open("path/to/model")?;
/// let mut generator = Generator::new(&model, None);
/// generator.prompt(&tokenizer.encode("Once upon a time", true)?, GenerateOptions::default())?;
/// for piece in generator.text(&tokenizer) {
///     print!("{}", piece?);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Model(Arc<Inner>);

/// Tokens from which the basis of packed caches is found, and positions up to which its centres should hold.
const SAMPLE: usize = 128;
const POSITIONS: usize = 4096;

struct Inner {
    architecture: Box<dyn Architecture>,
    config: ModelConfig,
    generation_config: GenerationConfig,
    device: Device,
    bytes: usize,
    bases: OnceLock<Arc<[Vec<f32>]>>,
    /// See [`Model::fingerprint`].
    fingerprint: String,
}

impl Model {
    /// Loads a model folder, Hugging Face's or MLX's.
    ///
    /// # Errors
    /// A missing or malformed file, a tensor that is missing or has the wrong shape, an architecture that
    /// is not known, no adapter, not enough memory, cancelled.
    pub fn load(path: impl AsRef<Path>, options: LoadOptions<'_>) -> Result<Self> {
        Self::from_checkpoint(&Checkpoint::open(path)?, options)
    }

    /// Loads an opened checkpoint.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn from_checkpoint(checkpoint: &Checkpoint, options: LoadOptions<'_>) -> Result<Self> {
        let said = checkpoint.generation_config().clone();
        let fingerprint = checkpoint.fingerprint();
        Self::build(Source::Checkpoint(checkpoint), checkpoint.config(), said, fingerprint, options)
    }

    /// A model of this shape with random weights, made on the device: for measuring speed without a
    /// checkpoint. Weights have the type and the quantization that the configuration states.
    ///
    /// # Errors
    /// An architecture that is not known, groups of a quantization that do not divide rows, no adapter,
    /// not enough memory, cancelled.
    pub fn synthetic(config: &ModelConfig, options: LoadOptions<'_>) -> Result<Self> {
        let source = Source::Synthetic(Synthetic::new(config));
        Self::build(source, config, GenerationConfig::default(), "synthetic".into(), options)
    }

    /// Whether a model of this configuration can be loaded, before any weight is read.
    ///
    /// # Errors
    /// An architecture, an activation or a scaling of the rotation that is not known.
    pub fn check_config(config: &ModelConfig) -> Result<()> {
        loader(&config.model_type)?;
        activation(&config.hidden_act)?;
        Rope::frequencies(&config.rope, config.head_dim).map(drop)
    }

    fn build(
        source: Source<'_>,
        config: &ModelConfig,
        generation_config: GenerationConfig,
        fingerprint: String,
        options: LoadOptions<'_>,
    ) -> Result<Self> {
        let load = loader(&config.model_type)?;
        let device = options.device.unwrap_or_else(Device::best);
        let mut silent = |_: Progress<'_>| ControlFlow::Continue(());
        let report = options.progress.unwrap_or(&mut silent);
        let mut weights = Weights::new(source, device, report);
        let architecture =
            load(&mut weights, config).with_context(|| format!("loading a {} model", config.model_type))?;
        let bytes = weights.bytes();
        let (config, bases) = (config.clone(), OnceLock::new());
        Ok(Self(Arc::new(Inner {
            architecture,
            config,
            generation_config,
            device,
            bytes,
            bases,
            fingerprint,
        })))
    }

    /// The checked `config.json`.
    pub fn config(&self) -> &ModelConfig {
        &self.0.config
    }

    /// The checked `generation_config.json`.
    pub fn generation_config(&self) -> &GenerationConfig {
        &self.0.generation_config
    }

    /// Where it runs.
    pub fn device(&self) -> Device {
        self.0.device
    }

    /// Bytes of its weights.
    pub fn bytes(&self) -> usize {
        self.0.bytes
    }

    /// A text that no model of other weights or another configuration shares.
    pub(crate) fn fingerprint(&self) -> &str {
        &self.0.fingerprint
    }

    /// The most tokens, prompt and answer together, that its positions were made for.
    pub fn context_length(&self) -> usize {
        self.0.config.context_length().unwrap_or(u32::MAX as usize)
    }

    /// Tokens that end an answer, as the model's files say.
    pub fn eos_token_ids(&self) -> Vec<u32> {
        let mut ids = self.0.generation_config.eos_token_ids.clone();
        for &id in &self.0.config.eos_token_ids {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        ids
    }

    /// An empty cache for `slots` sequences of this model.
    pub(crate) fn cache(&self, slots: usize, kind: KvKind) -> KvCache {
        let config = &self.0.config;
        let heads = [config.num_key_value_heads, config.head_dim];
        let within = |window: &usize| *window < self.context_length();
        let windows = (0..config.num_hidden_layers).map(|layer| config.window(layer).filter(within));
        KvCache::new(&windows.collect::<Vec<_>>(), heads, slots, kind, self.0.device)
    }

    /// The basis in which a packed cache keeps the heads of each layer, measured once on a few random tokens. Any basis
    /// is right; this one leaves the smallest errors.
    ///
    /// # Errors
    /// The device failed.
    pub(crate) fn bases(&self) -> Result<Arc<[Vec<f32>]>> {
        if let Some(bases) = self.0.bases.get() {
            return Ok(bases.clone());
        }
        let config = &self.0.config;
        let n = self.context_length().min(SAMPLE);
        // The first token is often a case of its own.
        let first = 1.min(n - 1);
        let vocab = config.vocab_size as u32;
        let ids: Vec<u32> = (0..n as u32).map(|i| (i + 1).wrapping_mul(0x9e37_79b1) % vocab).collect();
        let queries = RefCell::new(Vec::new());
        let (cache, logits) = self.pass(&ids, true, Some(&queries))?;
        let queries = queries.into_inner();
        let weights = self.value_weights(queries.len())?;
        let mut program = Program::new(&[&queries[..], &weights, &[logits]].concat())?;
        program.run()?;
        let inv_freq = Rope::frequencies(&config.rope, config.head_dim)?;
        let positions = self.context_length().min(POSITIONS);
        let turning = Turning { head_dim: config.head_dim, inv_freq: &inv_freq, positions };
        let (kv_heads, width) = (config.num_key_value_heads, config.num_key_value_heads * config.head_dim);
        let basis = |layer: usize| -> Result<Vec<f32>> {
            let mut of_queries = vec![0f32; n * config.num_attention_heads * config.head_dim];
            program.read(layer, bytemuck::cast_slice_mut(&mut of_queries))?;
            let mut of_values = vec![0f32; width + 1];
            program.read(queries.len() + layer, bytemuck::cast_slice_mut(&mut of_values))?;
            let [keys, values] = cache.rows(layer, n)?;
            let sample = Sample {
                queries: &of_queries[first * of_queries.len() / n..],
                keys: &keys[first * width..],
                values: &values[first * width..],
                weights: &of_values[1..],
                first,
            };
            Ok(sample.basis(kv_heads, &turning))
        };
        let bases: Arc<[Vec<f32>]> = (0..queries.len()).map(basis).collect::<Result<Vec<_>>>()?.into();
        Ok(self.0.bases.get_or_init(|| bases).clone())
    }

    /// How strongly each layer's output projection weighs each channel of its values: squares of its columns, summed
    /// over the heads that share the channel, `[1 + kv_heads * head_dim]`, the first of which is 0.
    fn value_weights(&self, layers: usize) -> Result<Vec<MLXArray>> {
        let config = &self.0.config;
        let (heads, kv_heads, d) = (config.num_attention_heads, config.num_key_value_heads, config.head_dim);
        // One probe per channel, for all its heads at once: columns are nearly orthogonal, signs do the rest.
        let mut probes = vec![0f32; (1 + kv_heads * d) * heads * d];
        for (i, probe) in probes.chunks_exact_mut(heads * d).skip(1).enumerate() {
            for head in 0..heads / kv_heads {
                let sign = if (i ^ (i >> 2)).rotate_right(head as u32) & 1 == 0 { 1.0 } else { -1.0 };
                probe[(i / d * (heads / kv_heads) + head) * d + i % d] = sign;
            }
        }
        let bytes = bytemuck::cast_slice(&probes);
        let probes = MLXArray::from_bytes(bytes, &[1 + kv_heads * d, heads * d], Dtype::F32, self.device())?;
        let weight = |layer| {
            let y = self.0.architecture.project(layer, &probes);
            let y = &y - &y.slice(0, 0, 1); // without the bias
            (&y * &y).sum(1)
        };
        Ok((0..layers).map(weight).collect())
    }

    /// The graph of a pass over `ids` `[t]` at `places` `[t, 2]`: logits `[t, vocab]`, or `[1, vocab]` of
    /// the last token alone.
    pub(crate) fn forward(
        &self,
        ids: &MLXArray,
        places: &MLXArray,
        cache: &KvCache,
        last_only: bool,
    ) -> MLXArray {
        self.logits(ids, &Step { places, cache, queries: None }, last_only)
    }

    fn logits(&self, ids: &MLXArray, step: &Step<'_>, last_only: bool) -> MLXArray {
        let hidden = self.0.architecture.hidden(ids, step); // [t, hidden]
        let hidden = if last_only { hidden.slice(0, ids.size() - 1, 1) } else { hidden };
        self.0.architecture.logits(&hidden)
    }

    /// Measures, for a few seconds, the arrangements that kernels of a step of `tokens` tokens may have (1, or
    /// as many answers as a [`Batch`](crate::Batch) makes at a time), and uses the fastest in plans made from
    /// now on; so do later processes on this adapter, with the same driver and the same version of this crate,
    /// unless `UNIMLX_CACHE` is empty. Generators that are already at work keep theirs. Never happens by
    /// itself.
    ///
    /// # Errors
    /// `is_input`: the model is on the CPU, or there are no tokens; the device failed.
    pub fn tune(&self, tokens: usize) -> Result<Vec<TunedShape>> {
        if self.0.device != Device::GPU {
            return Err(Error::input("there is nothing to tune on the CPU"));
        }
        if tokens == 0 {
            return Err(Error::input("a step of 0 tokens has nothing to tune"));
        }
        tune(&[self.step_logits(tokens, tokens, KvKind::default_for(self.device()), false)?])
            .context("tuning")
    }

    /// The graph of the same pass up to and with the final norm: `[t, hidden]`.
    pub(crate) fn hidden(&self, ids: &MLXArray, places: &MLXArray, cache: &KvCache) -> MLXArray {
        let architecture = &self.0.architecture;
        architecture.normed(&architecture.hidden(ids, &Step { places, cache, queries: None }))
    }

    /// Logits of every position, `[n, vocab]` row by row, by the reference interpreter: for tests of small
    /// models.
    ///
    /// # Errors
    /// As [`Model::check`].
    #[doc(hidden)]
    pub fn reference_logits(&self, tokens: &[u32]) -> Result<Vec<f32>> {
        self.check(tokens)?;
        let (_, logits) = self.pass(tokens, false, None)?;
        let values = crate::reference::eval(&logits)?;
        let mut bytes = vec![0; logits.nbytes()];
        values.to_bytes(Dtype::F32, &mut bytes);
        Ok(bytemuck::pod_collect_to_vec(&bytes))
    }

    /// The graph of a pass over tokens that stand alone, and the f32 cache that it fills; logits as for
    /// [`Model::forward`].
    fn pass(
        &self,
        tokens: &[u32],
        last_only: bool,
        queries: Option<&RefCell<Vec<MLXArray>>>,
    ) -> Result<(KvCache, MLXArray)> {
        let n = tokens.len();
        let leaf = |data: &[u32], dims: &[usize]| {
            MLXArray::from_bytes(bytemuck::cast_slice(data), dims, Dtype::U32, self.device())
        };
        let mut cache = self.cache(1, KvKind::F32);
        cache.reserve(0, n, n)?;
        let places: Vec<u32> = (0..n).flat_map(|position| cache.place(0, position)).collect();
        let (ids, places) = (leaf(tokens, &[n])?, leaf(&places, &[n, 2])?);
        let logits = self.logits(&ids, &Step { places: &places, cache: &cache, queries }, last_only);
        Ok((cache, logits))
    }

    /// The GPU work of a step of `t` tokens up to the likeliest next one, a line per dispatch; nothing on the CPU.
    ///
    /// # Errors
    /// No memory, a kernel that the driver refuses.
    #[doc(hidden)]
    pub fn step_recording(&self, t: usize) -> Result<String> {
        self.step(t, 4096, KvKind::default_for(self.device()))?.recording()
    }

    /// [`Model::step_recording`] with a cache of this kind.
    ///
    /// # Errors
    /// As [`Model::step_recording`].
    #[doc(hidden)]
    pub fn step_recording_with(&self, t: usize, kind: KvKind) -> Result<String> {
        self.step(t, 4096, kind)?.recording()
    }

    /// [`Model::step_recording`] as it would be on another adapter, with or without fusion.
    ///
    /// # Errors
    /// No memory.
    #[doc(hidden)]
    pub fn step_recording_for(&self, t: usize, caps: &Caps, fuse: bool) -> Result<String> {
        recording_for(&[self.step(t, 4096, KvKind::default_for(self.device()))?], caps, fuse)
    }

    /// The graph of a step of `t` tokens that chooses one, over an empty cache of `rows` rows.
    fn step(&self, t: usize, rows: usize, kind: KvKind) -> Result<MLXArray> {
        Ok(MLXArray::apply(ops::Argmax, &[&self.step_logits(t, rows, kind, true)?]))
    }

    fn step_logits(&self, t: usize, rows: usize, kind: KvKind, last_only: bool) -> Result<MLXArray> {
        let leaf = |dims: &[usize]| MLXArray::mutable(dims, Dtype::U32, self.device());
        let mut cache = self.cache(1, kind);
        if cache.wants_bases() {
            cache.set_bases(&self.bases()?)?;
        }
        cache.reserve(0, rows, rows)?;
        Ok(self.forward(&leaf(&[t])?, &leaf(&[t, 2])?, &cache, last_only))
    }

    /// Refuses ids beyond the vocabulary.
    pub(crate) fn check(&self, tokens: &[u32]) -> Result<()> {
        let vocab = self.0.config.vocab_size;
        match tokens.iter().position(|&id| id as usize >= vocab) {
            Some(i) => Err(Error::input(format!(
                "token {i} of the prompt is {}, but the vocabulary has {vocab} entries",
                tokens[i]
            ))),
            None if tokens.is_empty() => Err(Error::input("there are no tokens to read")),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Model({} on {}, {} bytes)", self.0.config.model_type, self.0.device, self.0.bytes)
    }
}
