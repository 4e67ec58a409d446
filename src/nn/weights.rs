//! Tensors become arrays on a device: those of a checkpoint, or synthetic ones.
//!
//! On the CPU an array is the mapped file itself. On the GPU the file's bytes go into a GPU buffer and the
//! mapped pages are let go, so that a host never holds the model twice. Nothing is converted: dtypes and
//! packing stay those of the file. Synthetic tensors are made where they will live.
//!
//! A [`Tensor`] is known by shape and dtype before its bytes are anywhere; it decides how they get into a
//! range of a GPU buffer.

use super::synthetic::{Noise, Synthetic};
use crate::array::{Device, MLXArray};
use crate::error::{Context, Error, Result};
use crate::gpu::{self, Gpu};
use crate::io::safetensors::Bytes;
use crate::io::{Checkpoint, Quantization, TensorView};
use crate::memory::Buffer;
use crate::op::Spec;
use std::ops::ControlFlow;
use std::sync::Arc;

/// How far a long piece of work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress<'a> {
    /// What was just finished: a tensor's name while loading, `prompt` while reading a prompt.
    pub name: &'a str,
    /// Bytes (loading) or tokens (reading a prompt) that are done.
    pub done: usize,
    /// Bytes or tokens in all; of a synthetic model, whose size nobody knows before, what `done` is.
    pub total: usize,
}

/// Who wants to know; `Break` cancels the work.
pub type Report<'a> = dyn FnMut(Progress<'_>) -> ControlFlow<()> + 'a;

/// Reports progress; an answer of `Break` becomes an error.
pub(crate) fn proceed(report: &mut Report<'_>, progress: Progress<'_>) -> Result<()> {
    match report(progress) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => {
            Err(Error::cancelled(format!("cancelled after {} of {}", progress.done, progress.total)))
        }
    }
}

/// Where tensors come from.
pub(crate) enum Source<'a> {
    Checkpoint(&'a Checkpoint),
    /// Whatever is asked for, of the types that a configuration states.
    Synthetic(Synthetic<'a>),
}

/// A tensor's name and dimensions.
pub(crate) type Named = (String, Vec<usize>);

/// Loads tensors by name, counting bytes.
pub(crate) struct Weights<'a> {
    source: Source<'a>,
    device: Device,
    report: &'a mut Report<'a>,
    done: usize,
    total: usize,
}

impl<'a> Weights<'a> {
    pub(crate) fn new(source: Source<'a>, device: Device, report: &'a mut Report<'a>) -> Self {
        let total = match &source {
            Source::Checkpoint(checkpoint) => checkpoint.total_bytes(),
            Source::Synthetic(_) => 0,
        };
        Self { source, device, report, done: 0, total }
    }

    pub(crate) fn device(&self) -> Device {
        self.device
    }

    /// Bytes of the tensors loaded so far.
    pub(crate) fn bytes(&self) -> usize {
        self.done
    }

    /// How `<module>.weight`, a matrix with rows of `k`, is packed; `None` if it is not.
    ///
    /// # Errors
    /// As [`Checkpoint::quantization_of`]; groups that do not divide rows.
    pub(crate) fn quantization_of(&self, module: &str, k: usize) -> Result<Option<Quantization>> {
        let checkpoint = match &self.source {
            Source::Checkpoint(checkpoint) => checkpoint,
            Source::Synthetic(synthetic) => return synthetic.quantization_of(module, k),
        };
        let quantization = checkpoint.quantization_of(module)?;
        if let Some(group) = quantization.map(|q| q.group_size)
            && !k.is_multiple_of(group)
        {
            let scales = checkpoint.tensor(&format!("{module}.scales"))?;
            return Err(checkpoint.wrong(&scales, format!("groups of {group} do not divide rows of {k}")));
        }
        Ok(quantization)
    }

    /// A floating-point tensor that must have this shape.
    ///
    /// # Errors
    /// Absent, another shape, integers; no memory; cancelled.
    pub(crate) fn float(&mut self, name: &str, dims: &[usize]) -> Result<MLXArray> {
        self.floats(&[(name.to_string(), dims.to_vec())])
    }

    /// Floating-point tensors below each other in one array; their shapes differ in the first axis only.
    ///
    /// # Errors
    /// As [`Weights::float`], of each.
    pub(crate) fn floats(&mut self, tensors: &[Named]) -> Result<MLXArray> {
        let tensors = self.source.floats(tensors)?;
        self.load(&tensors)
    }

    /// Tensors of packed words below each other in one array; [`Weights::quantization_of`] has seen their
    /// dtype.
    ///
    /// # Errors
    /// Absent, or another shape; no memory; cancelled.
    pub(crate) fn packed(&mut self, tensors: &[Named]) -> Result<MLXArray> {
        let tensors = self.source.packed(tensors)?;
        self.load(&tensors)
    }

    /// Whether floating-point tensors can lie below each other in one array: on the GPU, of one dtype, in
    /// whole words. The CPU reads them where the file is mapped.
    ///
    /// # Errors
    /// As [`Weights::float`], of each.
    pub(crate) fn can_join_floats(&self, tensors: &[Named]) -> Result<bool> {
        Ok(self.device == Device::GPU && can_join(&self.source.floats(tensors)?))
    }

    /// [`Weights::can_join_floats`] of packed words.
    ///
    /// # Errors
    /// As [`Weights::packed`].
    pub(crate) fn can_join_packed(&self, tensors: &[Named]) -> Result<bool> {
        Ok(self.device == Device::GPU && can_join(&self.source.packed(tensors)?))
    }

    /// Whether any stored tensor's name begins with `prefix`; synthetic weights are only what is asked for.
    pub(crate) fn has_under(&self, prefix: &str) -> bool {
        match &self.source {
            Source::Checkpoint(checkpoint) => checkpoint.names().any(|name| name.starts_with(prefix)),
            Source::Synthetic(_) => false,
        }
    }

    fn load(&mut self, tensors: &[Tensor]) -> Result<MLXArray> {
        let spec = joined(tensors);
        let buffer = match (self.device, tensors) {
            (Device::CPU, [tensor]) => tensor.host()?,
            (Device::CPU, _) => {
                let mut all = vec![0; spec.bytes()];
                let mut rest = &mut all[..];
                for tensor in tensors {
                    let (part, after) = rest.split_at_mut(tensor.spec().bytes());
                    tensor.host()?.read(part)?;
                    rest = after;
                }
                Buffer::from_bytes(&all, Device::CPU)?
            }
            (Device::GPU, _) => {
                let name = || tensors.iter().map(|t| format!("`{}`", t.name)).collect::<Vec<_>>().join(", ");
                let buffer = Gpu::shared()?.alloc(spec.bytes() as u64);
                let buffer = buffer.with_context(|| format!("tensor {}", name()))?;
                let mut offset = 0;
                for tensor in tensors {
                    tensor.write(&buffer, offset)?;
                    offset += tensor.spec().bytes() as u64;
                }
                Buffer::Gpu(buffer)
            }
        };
        for tensor in tensors {
            self.done += tensor.spec().bytes();
            let progress = Progress { name: &tensor.name, done: self.done, total: self.total.max(self.done) };
            proceed(self.report, progress).context("loading weights")?;
        }
        Ok(MLXArray::from_buffer(spec, buffer))
    }
}

impl Source<'_> {
    fn floats(&self, tensors: &[Named]) -> Result<Vec<Tensor>> {
        let float = |(name, dims): &Named| {
            let content = match self {
                Source::Checkpoint(checkpoint) => {
                    let view = checkpoint.tensor_of_shape(name, dims)?;
                    if !view.dtype().is_float() {
                        let what = format!("dtype {}, expected f32, f16 or bf16", view.dtype());
                        return Err(checkpoint.wrong(&view, what));
                    }
                    Content::Stored(view)
                }
                Source::Synthetic(synthetic) => Content::Made(synthetic.float(name, dims)),
            };
            Ok(Tensor { name: name.clone(), content })
        };
        tensors.iter().map(float).collect()
    }

    fn packed(&self, tensors: &[Named]) -> Result<Vec<Tensor>> {
        let packed = |(name, dims): &Named| {
            let content = match self {
                Source::Checkpoint(checkpoint) => Content::Stored(checkpoint.tensor_of_shape(name, dims)?),
                Source::Synthetic(synthetic) => Content::Made(synthetic.packed(name, dims)),
            };
            Ok(Tensor { name: name.clone(), content })
        };
        tensors.iter().map(packed).collect()
    }
}

/// Whether each of several tensors may begin where the one before it ends.
fn can_join(tensors: &[Tensor]) -> bool {
    let specs: Vec<Spec> = tensors.iter().map(Tensor::spec).collect();
    specs.iter().all(|spec| spec.dtype == specs[0].dtype && spec.bytes().is_multiple_of(4))
}

/// Tensors below each other.
fn joined(tensors: &[Tensor]) -> Spec {
    let mut spec = tensors[0].spec();
    for more in &tensors[1..] {
        spec.dims[0] += more.spec().dims[0];
    }
    spec
}

/// A tensor that is nowhere yet.
struct Tensor {
    name: String,
    content: Content,
}

enum Content {
    Stored(TensorView),
    Made(Noise),
}

/// Bytes that go to the GPU before their pages are let go.
const STRIDE: usize = 32 << 20;

impl Tensor {
    fn spec(&self) -> Spec {
        match &self.content {
            Content::Stored(view) => Spec::new(&view.shape, view.dtype),
            Content::Made(noise) => noise.spec.clone(),
        }
    }

    /// Fills a range of a GPU buffer from byte `offset`, a multiple of 4, on.
    fn write(&self, buffer: &gpu::Buffer, offset: u64) -> Result<()> {
        let bytes = match &self.content {
            Content::Stored(view) => &view.bytes,
            Content::Made(noise) => {
                return noise.write(buffer, offset).with_context(|| format!("tensor `{}`", self.name));
            }
        };
        for start in (0..bytes.len()).step_by(STRIDE) {
            let part = bytes.slice(start..bytes.len().min(start + STRIDE));
            let written = buffer.gpu().write(buffer, offset + start as u64, &part);
            written.with_context(|| format!("tensor `{}`", self.name))?;
            part.release();
        }
        Ok(())
    }

    /// The bytes in host memory: mapped where they are aligned.
    fn host(&self) -> Result<Buffer> {
        match &self.content {
            Content::Stored(view) if view.bytes.as_ptr().align_offset(4) == 0 => {
                let range = 0..view.bytes.len();
                Ok(Buffer::Mapped(Arc::new(Held(view.bytes.clone())), range))
            }
            Content::Stored(view) => Buffer::from_bytes(&view.bytes, Device::CPU),
            Content::Made(noise) => noise.host(),
        }
    }
}

/// Mapped bytes as a [`Buffer`] wants them.
struct Held(Bytes);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::ModelConfig;

    const CONFIG: &str = r#"{ "model_type": "llama", "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50 }"#;

    #[test]
    fn synthetic_tensors_join_on_a_gpu() {
        if gpu::or_skip(Gpu::shared()).is_none() {
            return;
        }
        let config = ModelConfig::parse("config.json", CONFIG.as_bytes()).unwrap();
        let tensors =
            |odd: usize| [("a", 5), ("b", 3), ("c", odd)].map(|(name, n)| (name.into(), vec![n, 66]));
        let bytes = |array: &MLXArray, count: usize| {
            let mut bytes = vec![0; count];
            array.buffer().unwrap().read(&mut bytes).unwrap();
            bytes
        };
        for (device, joins) in [(Device::CPU, false), (Device::GPU, true)] {
            let mut names = Vec::new();
            let mut report = |progress: Progress<'_>| {
                names.push((progress.name.to_string(), progress.done));
                ControlFlow::Continue(())
            };
            let mut weights = Weights::new(Source::Synthetic(Synthetic::new(&config)), device, &mut report);
            assert_eq!(weights.can_join_floats(&tensors(7)).unwrap(), joins);
            assert_eq!(weights.can_join_packed(&tensors(7)).unwrap(), joins);
            let odd = [("a".to_string(), vec![3, 5]), ("b".to_string(), vec![3, 5])];
            assert!(!weights.can_join_floats(&odd).unwrap());
            let all = weights.floats(&tensors(7)).unwrap();
            let each = tensors(7).map(|(name, dims)| weights.float(&name, &dims).unwrap());
            assert_eq!(all.dims(), [15, 66]);
            let apart: Vec<u8> = each.iter().flat_map(|array| bytes(array, array.size() * 2)).collect();
            assert!(bytes(&all, 15 * 66 * 2) == apart, "{device:?}");
            assert_eq!(weights.bytes(), 2 * apart.len());
            assert_eq!(names[2], ("c".to_string(), apart.len()));
        }
    }
}
