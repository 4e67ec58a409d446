//! Tensors of a checkpoint become arrays on a device.
//!
//! On the CPU an array is the mapped file itself. On the GPU the file's bytes go into a GPU buffer and the
//! mapped pages are let go, so that a host never holds the model twice. Nothing is converted: dtypes and
//! packing stay those of the file.

use crate::array::{Device, MLXArray};
use crate::error::{Context, Error, Result};
use crate::gpu::{self, Gpu};
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
        self.floats(&[(name.to_string(), dims.to_vec())])
    }

    /// Floating-point tensors below each other in one array; their shapes differ in the first axis only.
    ///
    /// # Errors
    /// As [`Weights::float`], of each.
    pub(crate) fn floats(&mut self, tensors: &[(String, Vec<usize>)]) -> Result<MLXArray> {
        let views = self.views(tensors)?;
        match views.iter().find(|view| !view.dtype().is_float()) {
            None => self.load(&views),
            Some(view) => {
                let what = format!("dtype {}, expected f32, f16 or bf16", view.dtype());
                Err(self.checkpoint.wrong(view, what))
            }
        }
    }

    /// Tensors of packed words below each other in one array; [`Checkpoint::quantization_of`] has seen their
    /// dtype.
    ///
    /// # Errors
    /// Absent, or another shape; no memory; cancelled.
    pub(crate) fn packed(&mut self, tensors: &[(String, Vec<usize>)]) -> Result<MLXArray> {
        let views = self.views(tensors)?;
        self.load(&views)
    }

    /// Whether tensors can lie below each other in one array: on the GPU, of one dtype, in whole words. The
    /// CPU reads them where the file is mapped.
    pub(crate) fn can_join(&self, names: &[String]) -> Result<bool> {
        let views = names.iter().map(|name| self.checkpoint.tensor(name)).collect::<Result<Vec<_>>>()?;
        let joins =
            |view: &TensorView| view.dtype() == views[0].dtype() && view.bytes.len().is_multiple_of(4);
        Ok(self.device == Device::GPU && views.iter().all(joins))
    }

    fn views(&self, tensors: &[(String, Vec<usize>)]) -> Result<Vec<TensorView>> {
        tensors.iter().map(|(name, dims)| self.checkpoint.tensor_of_shape(name, dims)).collect()
    }

    fn load(&mut self, views: &[TensorView]) -> Result<MLXArray> {
        let bytes = || views.iter().map(|view| view.bytes.len());
        let buffer = match self.device {
            Device::GPU => {
                let buffer = Gpu::shared()?.alloc(bytes().sum::<usize>() as u64)?;
                let mut offset = 0;
                for view in views {
                    let whole = to_gpu(&view.bytes, &buffer, offset);
                    whole.with_context(|| format!("tensor `{}`", view.name))?;
                    offset += view.bytes.len() as u64;
                }
                Buffer::Gpu(buffer)
            }
            Device::CPU if views.len() == 1 && views[0].bytes.as_ptr().align_offset(4) == 0 => {
                Buffer::Mapped(Arc::new(Held(views[0].bytes.clone())), 0..views[0].bytes.len())
            }
            Device::CPU => {
                let all: Vec<u8> = views.iter().flat_map(|view| view.bytes.iter().copied()).collect();
                Buffer::from_bytes(&all, Device::CPU)?
            }
        };
        for view in views {
            self.done += view.bytes.len();
            let progress = Progress { name: &view.name, done: self.done, total: self.total };
            proceed(self.report, progress).context("loading weights")?;
        }
        let mut dims = views[0].shape.clone();
        dims[0] = views.iter().map(|view| view.shape[0]).sum();
        Ok(MLXArray::from_buffer(Spec::new(&dims, views[0].dtype), buffer))
    }
}

/// Bytes that go to the GPU before their pages are let go.
const STRIDE: usize = 32 << 20;

fn to_gpu(bytes: &Bytes, buffer: &gpu::Buffer, offset: u64) -> Result<()> {
    for start in (0..bytes.len()).step_by(STRIDE) {
        let part = bytes.slice(start..bytes.len().min(start + STRIDE));
        buffer.gpu().write(buffer, offset + start as u64, &part)?;
        part.release();
    }
    Ok(())
}

/// Mapped bytes as a [`Buffer`] wants them.
struct Held(Bytes);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
