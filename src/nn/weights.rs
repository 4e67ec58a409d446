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
        let content = match &self.source {
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
        self.load(Tensor { name: name.to_string(), content })
    }

    /// A tensor of packed words that must have this shape; [`Weights::quantization_of`] has seen its dtype.
    ///
    /// # Errors
    /// Absent, or another shape; no memory; cancelled.
    pub(crate) fn packed(&mut self, name: &str, dims: &[usize]) -> Result<MLXArray> {
        let content = match &self.source {
            Source::Checkpoint(checkpoint) => Content::Stored(checkpoint.tensor_of_shape(name, dims)?),
            Source::Synthetic(synthetic) => Content::Made(synthetic.packed(name, dims)),
        };
        self.load(Tensor { name: name.to_string(), content })
    }

    fn load(&mut self, tensor: Tensor) -> Result<MLXArray> {
        let spec = tensor.spec();
        let buffer = match self.device {
            Device::CPU => tensor.host()?,
            Device::GPU => {
                let buffer = Gpu::shared()?.alloc(spec.bytes() as u64);
                let buffer = buffer.with_context(|| format!("tensor `{}`", tensor.name))?;
                tensor.write(&buffer, 0)?;
                Buffer::Gpu(buffer)
            }
        };
        self.done += spec.bytes();
        let progress = Progress { name: &tensor.name, done: self.done, total: self.total.max(self.done) };
        proceed(self.report, progress).context("loading weights")?;
        Ok(MLXArray::from_buffer(spec, buffer))
    }
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
            Content::Made(noise) => Ok(noise.host()),
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
