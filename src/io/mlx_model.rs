//! A whole checkpoint as `ndarray` matrices in f32.
//!
//! For looking at weights, testing and small experiments: everything is inflated to f32, so a model of
//! 4 bits takes eight times its file's size. To run a model, load it with the engine, which keeps
//! weights packed.

use super::checkpoint::Checkpoint;
use super::config::ModelConfig;
use super::quantized;
use super::safetensors::TensorView;
use crate::error::{Error, Result};
use ndarray::{Array1, Array2};
use rayon::prelude::*;
use std::path::Path;

/// A decoder-only model's weights in f32. Matrices are `[out, in]`: `y = W x + b`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MlxModel {
    /// The checked `config.json`.
    pub config: ModelConfig,
    /// Token embedding `[vocab, hidden]`.
    pub embedding: Array2<f32>,
    /// The decoder layers, first to last.
    pub layers: Vec<MlxLayer>,
    /// Weight of the last RMS norm `[hidden]`.
    pub norm: Array1<f32>,
    /// Output projection `[vocab, hidden]`; `None` if it is the embedding.
    pub lm_head: Option<Array2<f32>>,
}

/// One decoder layer of an [`MlxModel`]. `q` is `heads * head_dim`, `kv` is `kv_heads * head_dim`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MlxLayer {
    /// Query projection `[q, hidden]`.
    pub attn_q: Array2<f32>,
    /// Key projection `[kv, hidden]`.
    pub attn_k: Array2<f32>,
    /// Value projection `[kv, hidden]`.
    pub attn_v: Array2<f32>,
    /// Output projection `[hidden, q]`.
    pub attn_o: Array2<f32>,
    /// Bias of the query projection `[q]`, where there is one.
    pub attn_q_bias: Option<Array1<f32>>,
    /// Bias of the key projection `[kv]`, where there is one.
    pub attn_k_bias: Option<Array1<f32>>,
    /// Bias of the value projection `[kv]`, where there is one.
    pub attn_v_bias: Option<Array1<f32>>,
    /// Bias of the output projection `[hidden]`, where there is one.
    pub attn_o_bias: Option<Array1<f32>>,
    /// Weight of the RMS norm of each query head `[head_dim]`, where there is one (qwen3).
    pub q_norm: Option<Array1<f32>>,
    /// Weight of the RMS norm of each key head `[head_dim]`, where there is one (qwen3).
    pub k_norm: Option<Array1<f32>>,
    /// Gate projection of the feed-forward layer `[intermediate, hidden]`.
    pub mlp_gate: Array2<f32>,
    /// Up projection `[intermediate, hidden]`.
    pub mlp_up: Array2<f32>,
    /// Down projection `[hidden, intermediate]`.
    pub mlp_down: Array2<f32>,
    /// Weight of the RMS norm before attention (`input_layernorm`) `[hidden]`.
    pub input_norm: Array1<f32>,
    /// Weight of the RMS norm before the feed-forward layer (`post_attention_layernorm`) `[hidden]`.
    pub post_attn_norm: Array1<f32>,
}

/// Loads a model folder, Hugging Face or MLX, dequantized to f32.
///
/// For the decoder layout that llama, mistral, qwen2 and qwen3 share.
///
/// # Errors
/// A missing or malformed file, tensor or field, by name; a tensor whose shape is not what
/// `config.json` says; an architecture with other tensors.
///
/// ```no_run
/// let model = unimlx::load_mlx_model("Qwen3-0.6B-4bit")?;
/// println!("{:?}", model.layers[0].attn_q.dim());
/// # Ok::<(), unimlx::Error>(())
/// ```
pub fn load_mlx_model(path: impl AsRef<Path>) -> Result<MlxModel> {
    MlxModel::from_checkpoint(&Checkpoint::open(path)?)
}

impl MlxModel {
    /// The same from an opened checkpoint.
    ///
    /// # Errors
    /// As [`load_mlx_model`].
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Self> {
        let config = checkpoint.config();
        if !["llama", "mistral", "qwen2", "qwen3"].contains(&config.model_type.as_str()) {
            let what = format!(
                "{}: `model_type`: `{}` is not supported",
                checkpoint.config_name(),
                config.model_type
            );
            return Err(Error::unsupported(what));
        }
        let (hidden, vocab) = (config.hidden_size, config.vocab_size);
        let lm_head = (!config.tie_word_embeddings).then(|| matrix(checkpoint, "lm_head", vocab, hidden));
        Ok(Self {
            embedding: matrix(checkpoint, "model.embed_tokens", vocab, hidden)?,
            layers: (0..config.num_hidden_layers).map(|i| layer(checkpoint, i)).collect::<Result<_>>()?,
            norm: vector(checkpoint, "model.norm.weight", hidden)?,
            lm_head: lm_head.transpose()?,
            config: config.clone(),
        })
    }
}

fn layer(c: &Checkpoint, index: usize) -> Result<MlxLayer> {
    let config = c.config();
    let (hidden, inner, head) = (config.hidden_size, config.intermediate_size, config.head_dim);
    let (q, kv) = (config.num_attention_heads * head, config.num_key_value_heads * head);
    let at = |name: &str| format!("model.layers.{index}.{name}");
    let weight = |name: &str, rows: usize, columns: usize| matrix(c, &at(name), rows, columns);
    let vec = |name: &str, len: usize| vector(c, &at(name), len);
    let maybe = |name: &str, len: usize| c.has(&at(name)).then(|| vec(name, len)).transpose();
    Ok(MlxLayer {
        attn_q: weight("self_attn.q_proj", q, hidden)?,
        attn_k: weight("self_attn.k_proj", kv, hidden)?,
        attn_v: weight("self_attn.v_proj", kv, hidden)?,
        attn_o: weight("self_attn.o_proj", hidden, q)?,
        attn_q_bias: maybe("self_attn.q_proj.bias", q)?,
        attn_k_bias: maybe("self_attn.k_proj.bias", kv)?,
        attn_v_bias: maybe("self_attn.v_proj.bias", kv)?,
        attn_o_bias: maybe("self_attn.o_proj.bias", hidden)?,
        q_norm: maybe("self_attn.q_norm.weight", head)?,
        k_norm: maybe("self_attn.k_norm.weight", head)?,
        mlp_gate: weight("mlp.gate_proj", inner, hidden)?,
        mlp_up: weight("mlp.up_proj", inner, hidden)?,
        mlp_down: weight("mlp.down_proj", hidden, inner)?,
        input_norm: vec("input_layernorm.weight", hidden)?,
        post_attn_norm: vec("post_attention_layernorm.weight", hidden)?,
    })
}

fn vector(c: &Checkpoint, name: &str, len: usize) -> Result<Array1<f32>> {
    let tensor = c.tensor_of_shape(name, &[len])?;
    Ok(Array1::from_vec(floats(c, &tensor)?))
}

/// `<module>.weight`, dense or packed.
fn matrix(c: &Checkpoint, module: &str, rows: usize, columns: usize) -> Result<Array2<f32>> {
    let name = format!("{module}.weight");
    let Some(quantization) = c.quantization_of(module)? else {
        let tensor = c.tensor_of_shape(&name, &[rows, columns])?;
        return shaped(c, &tensor, rows, columns, floats(c, &tensor)?);
    };
    // The scales are known to belong to the weight; the weight has to belong to the configuration.
    let packed = c.tensor(&name)?;
    if packed.shape.len() != 2
        || packed.shape[0] != rows
        || packed.shape[1].checked_mul(32) != columns.checked_mul(quantization.bits)
    {
        return Err(c.wrong(
            &packed,
            format_args!("packed shape {:?} ({quantization}) is not [{rows}, {columns}]", packed.shape),
        ));
    }
    let scales = floats(c, &c.tensor(&format!("{module}.scales"))?)?;
    let biases = floats(c, &c.tensor(&format!("{module}.biases"))?)?;
    let mut out = vec![0.0; rows * columns];
    let groups = columns / quantization.group_size;
    let row_bytes = packed.shape[1] * 4;
    out.par_chunks_mut(columns.max(1)).enumerate().try_for_each(|(row, out)| {
        let bytes = &packed.bytes[row * row_bytes..][..row_bytes];
        let (s, b) = (&scales[row * groups..][..groups], &biases[row * groups..][..groups]);
        quantized::dequantize(bytes, s, b, quantization, out)
    })?;
    packed.bytes.release();
    shaped(c, &packed, rows, columns, out)
}

fn shaped(
    c: &Checkpoint,
    tensor: &TensorView,
    rows: usize,
    columns: usize,
    data: Vec<f32>,
) -> Result<Array2<f32>> {
    Array2::from_shape_vec((rows, columns), data).map_err(|e| c.wrong(tensor, e))
}

/// The elements as f32; their pages are not needed after that.
fn floats(c: &Checkpoint, tensor: &TensorView) -> Result<Vec<f32>> {
    let numbers = tensor
        .to_f32()
        .ok_or_else(|| c.wrong(tensor, format_args!("dtype {}, expected floating point", tensor.dtype)))?;
    tensor.bytes.release();
    Ok(numbers)
}
