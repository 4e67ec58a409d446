//! Tensors of a checkpoint become arrays on a device.
//!
//! On the CPU an array is the mapped file itself. On the GPU the file's bytes go into a GPU buffer and the
//! mapped pages are let go, so that a host never holds the model twice. Nothing is converted: dtypes and
//! packing stay those of the file.

use crate::array::{Device, MLXArray};
use crate::error::{Context, Error, Result};
use crate::gpu::Gpu;
use crate::io::safetensors::Bytes;
use crate::io::{Checkpoint, TensorView};
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
    /// Bytes or tokens in all.
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

/// Loads tensors by name, counting bytes.
pub(crate) struct Weights<'a> {
    checkpoint: &'a Checkpoint,
    device: Device,
    report: &'a mut Report<'a>,
    done: usize,
    total: usize,
}

impl<'a> Weights<'a> {
    pub(crate) fn new(checkpoint: &'a Checkpoint, device: Device, report: &'a mut Report<'a>) -> Self {
        Self { checkpoint, device, report, done: 0, total: checkpoint.total_bytes() }
    }

    pub(crate) fn checkpoint(&self) -> &'a Checkpoint {
        self.checkpoint
    }

    pub(crate) fn device(&self) -> Device {
        self.device
    }

    /// Bytes of the tensors loaded so far.
    pub(crate) fn bytes(&self) -> usize {
        self.done
    }

    /// A floating-point tensor that must have this shape.
    ///
    /// # Errors
    /// Absent, another shape, integers; no memory; cancelled.
    pub(crate) fn float(&mut self, name: &str, dims: &[usize]) -> Result<MLXArray> {
        let view = self.checkpoint.tensor_of_shape(name, dims)?;
        if !view.dtype().is_float() {
            let what = format!("dtype {}, expected f32, f16 or bf16", view.dtype());
            return Err(self.checkpoint.wrong(&view, what));
        }
        self.load(view)
    }

    /// A tensor of packed words that must have this shape; [`Checkpoint::quantization_of`] has seen its dtype.
    ///
    /// # Errors
    /// Absent, or another shape; no memory; cancelled.
    pub(crate) fn packed(&mut self, name: &str, dims: &[usize]) -> Result<MLXArray> {
        let view = self.checkpoint.tensor_of_shape(name, dims)?;
        self.load(view)
    }

    fn load(&mut self, view: TensorView) -> Result<MLXArray> {
        let bytes = view.bytes;
        let buffer = match self.device {
            Device::CPU if bytes.as_ptr().align_offset(4) == 0 => {
                let range = 0..bytes.len();
                Buffer::Mapped(Arc::new(Held(bytes.clone())), range)
            }
            Device::CPU => Buffer::from_bytes(&bytes, Device::CPU)?,
            Device::GPU => to_gpu(&bytes).with_context(|| format!("tensor `{}`", view.name))?,
        };
        self.done += bytes.len();
        let progress = Progress { name: &view.name, done: self.done, total: self.total };
        proceed(self.report, progress).context("loading weights")?;
        Ok(MLXArray::from_buffer(Spec::new(&view.shape, view.dtype), buffer))
    }
}

/// Bytes that go to the GPU before their pages are let go.
const STRIDE: usize = 32 << 20;

fn to_gpu(bytes: &Bytes) -> Result<Buffer> {
    let gpu = Gpu::shared()?;
    let buffer = gpu.alloc(bytes.len() as u64)?;
    for start in (0..bytes.len()).step_by(STRIDE) {
        let part = bytes.slice(start..bytes.len().min(start + STRIDE));
        gpu.write(&buffer, start as u64, &part)?;
        part.release();
    }
    Ok(Buffer::Gpu(buffer))
}

/// Mapped bytes as a [`Buffer`] wants them.
struct Held(Bytes);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
