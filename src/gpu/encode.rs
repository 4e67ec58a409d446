//! From a recording to the GPU: made ready once, replayed many times.
//!
//! [`Gpu::prepare`] checks a recording against its buffers and the device's limits and makes pipelines,
//! bind groups and one uniform buffer with all parameters. [`Gpu::run`] then only encodes and submits.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::pipeline::{Pipeline, params_size};
use super::readback::{Slot, Words};
use super::timing::{Stamps, passes, watched};
use super::transfer::with_mapped;
use crate::error::{Context, Error, Result};
use crate::gpu::{Buffer, Dispatch, Gpu, Recording, Step, Ticket};

/// Where parameters of one dispatch may begin: the largest alignment WebGPU lets a device ask for.
const PARAMS_ALIGNMENT: u64 = 256;

/// A recording with its buffers, ready to run.
pub struct Prepared {
    pub(super) gpu: Arc<Gpu>,
    steps: Vec<Ready>,
    pub(super) buffers: Vec<Buffer>,
    pub(super) max_dispatches: usize,
}

pub(super) enum Ready {
    Dispatch { dispatch: Dispatch, pipeline: Arc<Pipeline>, bindings: wgpu::BindGroup },
    Copy { src: usize, src_offset: u64, dst: usize, dst_offset: u64, bytes: u64 },
}

/// The parameters of all dispatches in one uniform buffer, and where each set begins.
struct Params<'a> {
    buffer: Option<wgpu::Buffer>,
    places: HashMap<&'a [u32], u64>,
}

/// What goes with the last submission of a recording.
#[derive(Clone, Copy, Default)]
pub(super) struct Tail<'a> {
    /// A copy behind the steps.
    pub(super) read: Option<(&'a Slot, &'a Words<'a>)>,
    /// Calls into wgpu right after it.
    pub(super) then: Option<&'a dyn Fn()>,
}

impl Tail<'_> {
    pub(super) fn record(&self, encoder: &mut wgpu::CommandEncoder) {
        if let Some((slot, words)) = self.read {
            slot.copy(encoder, words);
        }
    }

    pub(super) fn call(&self) {
        if let Some(then) = self.then {
            then();
        }
    }
}

impl Prepared {
    /// Submits after every `count` dispatches, so that no submission runs for long.
    #[must_use]
    pub fn with_max_dispatches(mut self, count: usize) -> Self {
        self.max_dispatches = count.max(1);
        self
    }

    /// The buffers it works on, by slot.
    pub fn buffers(&self) -> &[Buffer] {
        &self.buffers
    }

    /// How many kernels it runs.
    pub fn dispatches(&self) -> usize {
        self.steps.iter().filter(|step| matches!(step, Ready::Dispatch { .. })).count()
    }

    /// The steps, cut after every `count` dispatches.
    pub(super) fn chunks(&self, count: usize) -> impl Iterator<Item = &[Ready]> {
        let mut rest = &self.steps[..];
        std::iter::from_fn(move || {
            let mut dispatches = 0;
            let full = |step: &Ready| {
                dispatches += usize::from(matches!(step, Ready::Dispatch { .. }));
                dispatches == count
            };
            let end = rest.iter().position(full).map_or(rest.len(), |last| last + 1);
            let (chunk, after) = rest.split_at(end);
            rest = after;
            (!chunk.is_empty()).then_some(chunk)
        })
    }

    pub(super) fn encode(&self, encoder: &mut wgpu::CommandEncoder, steps: &[Ready], mut stamps: Stamps<'_>) {
        let mut left = passes(steps);
        let mut steps = steps.iter().peekable();
        while let Some(step) = steps.peek() {
            if let Ready::Copy { src, src_offset, dst, dst_offset, bytes } = step {
                let (src, dst) = (self.buffers[*src].raw(), self.buffers[*dst].raw());
                encoder.copy_buffer_to_buffer(src, *src_offset, dst, *dst_offset, *bytes);
                steps.next();
                continue;
            }
            left -= 1;
            let timestamp_writes = stamps.of_pass(left == 0);
            let descriptor = wgpu::ComputePassDescriptor { label: None, timestamp_writes };
            let mut pass = encoder.begin_compute_pass(&descriptor);
            stamps.write(&mut pass);
            let mut set: Option<&Arc<Pipeline>> = None;
            while let Some(Ready::Dispatch { pipeline, bindings, dispatch }) =
                steps.next_if(|step| matches!(step, Ready::Dispatch { .. }))
            {
                let [x, y, z] = dispatch.grid;
                if !set.is_some_and(|set| Arc::ptr_eq(set, pipeline)) {
                    pass.set_pipeline(&pipeline.raw);
                    set = Some(pipeline);
                }
                pass.set_bind_group(0, bindings, &[]);
                pass.dispatch_workgroups(x, y, z);
                stamps.write(&mut pass);
            }
        }
    }

    pub(super) fn used_by(&self, serial: u64) {
        self.buffers.iter().for_each(|buffer| buffer.used_by(serial));
    }

    /// Submits all steps, and `tail` with the last of them; the serial number of the last submission, 0 if
    /// there is nothing to do.
    pub(super) fn submit_all(&self, tail: Tail<'_>) -> Result<u64> {
        watched(self, tail).unwrap_or_else(|| {
            self.submit_chunks(self.max_dispatches, tail, |steps, tail| self.submit(steps, tail))
        })
    }

    /// [`Prepared::submit_all`] with a submission of the caller's after every `count` dispatches.
    pub(super) fn submit_chunks(
        &self,
        count: usize,
        tail: Tail<'_>,
        mut submit: impl FnMut(&[Ready], Tail<'_>) -> Result<u64>,
    ) -> Result<u64> {
        let mut chunks = self.chunks(count);
        let mut steps = chunks.next().unwrap_or_default();
        if steps.is_empty() && tail.read.is_none() {
            return Ok(0);
        }
        for next in chunks {
            submit(std::mem::replace(&mut steps, next), Tail::default())?;
        }
        submit(steps, tail)
    }

    /// One submission without timestamps.
    pub(super) fn submit(&self, steps: &[Ready], tail: Tail<'_>) -> Result<u64> {
        let record = |encoder: &mut wgpu::CommandEncoder| {
            self.encode(encoder, steps, Stamps::None);
            tail.record(encoder);
        };
        self.gpu.submit_then("submitting", record, &|| tail.call(), |serial| self.used_by(serial))
    }
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Prepared({} steps, {} buffers)", self.steps.len(), self.buffers.len())
    }
}

impl Gpu {
    /// Checks `recording` and makes all it needs; slot `i` is `buffers[i]`.
    ///
    /// # Errors
    /// `is_input`: a recording that does not fit its buffers; `is_unsupported`: one that asks for more
    /// than this device has; `is_device`: a kernel that does not compile. Each names the kernel.
    pub fn prepare(self: &Arc<Self>, recording: &Recording, buffers: &[Buffer]) -> Result<Prepared> {
        if recording.buffers.len() != buffers.len() {
            let (want, have) = (recording.buffers.len(), buffers.len());
            return Err(Error::input(format!("a recording over {want} buffers was given {have}")));
        }
        for (slot, (buffer, &bytes)) in buffers.iter().zip(&recording.buffers).enumerate() {
            if !Arc::ptr_eq(buffer.gpu(), self) {
                return Err(Error::input(format!("the buffer for slot {slot} belongs to another device")));
            }
            if buffer.capacity() < bytes {
                let have = buffer.bytes();
                return Err(Error::input(format!("slot {slot} needs {bytes} bytes, its buffer has {have}")));
            }
        }
        let mut dispatches = Vec::with_capacity(recording.steps.len());
        for step in &recording.steps {
            match step {
                Step::Dispatch(dispatch) => {
                    self.check_dispatch(dispatch, recording, buffers)
                        .with_context(|| format!("kernel {}", dispatch.name))?;
                    dispatches.push(dispatch);
                }
                Step::Copy { .. } => self.check_copy(recording, step)?,
            }
        }
        let mut pipelines = self.pipelines(&dispatches)?.into_iter();
        let params = self.params(recording)?;
        let mut steps = Vec::with_capacity(recording.steps.len());
        for step in &recording.steps {
            steps.push(match step {
                Step::Dispatch(dispatch) => {
                    let pipeline = pipelines.next().expect("one for each dispatch");
                    let place = params.places.get(&dispatch.params[..]).copied();
                    self.ready(dispatch, pipeline, buffers, params.buffer.as_ref().zip(place))
                        .with_context(|| format!("kernel {}", dispatch.name))?
                }
                &Step::Copy { src, src_offset, dst, dst_offset, bytes } => {
                    Ready::Copy { src, src_offset, dst, dst_offset, bytes }
                }
            });
        }
        Ok(Prepared { gpu: self.clone(), steps, buffers: buffers.to_vec(), max_dispatches: usize::MAX })
    }

    /// Submits all steps, without waiting for them.
    ///
    /// # Errors
    /// `is_device`.
    pub fn run(&self, prepared: &Prepared) -> Result<()> {
        self.start(prepared).map(|_| ())
    }

    /// [`Gpu::run`] with something to wait for.
    ///
    /// # Errors
    /// `is_device`.
    pub fn start(&self, prepared: &Prepared) -> Result<Ticket> {
        prepared.submit_all(Tail::default()).map(Ticket::new)
    }

    fn params<'a>(&self, recording: &'a Recording) -> Result<Params<'a>> {
        let mut places: HashMap<&[u32], u64> = HashMap::new();
        let mut bytes = Vec::new();
        for step in &recording.steps {
            let Step::Dispatch(dispatch) = step else { continue };
            if dispatch.params.is_empty() || places.contains_key(&dispatch.params[..]) {
                continue;
            }
            places.insert(&dispatch.params, bytes.len() as u64);
            bytes.extend_from_slice(bytemuck::cast_slice(&dispatch.params));
            bytes.resize(bytes.len().next_multiple_of(PARAMS_ALIGNMENT as usize), 0);
        }
        if bytes.is_empty() {
            return Ok(Params { buffer: None, places });
        }
        let size = bytes.len() as u64;
        let usage = match self.caps().unified {
            true => wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::MAP_WRITE,
            false => wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
        };
        let buffer = self.create_buffer(size, usage)?;
        match self.caps().unified {
            true => {
                let _mapped = self.map(&buffer, wgpu::MapMode::Write, 0..size)?;
                with_mapped(buffer.slice(..), |all| {
                    all.copy_from_slice(&bytes);
                    Ok(())
                })?;
            }
            false => self.guarded("writing parameters", || self.queue.write_buffer(&buffer, 0, &bytes))?,
        }
        Ok(Params { buffer: Some(buffer), places })
    }

    fn ready(
        &self,
        dispatch: &Dispatch,
        pipeline: Arc<Pipeline>,
        buffers: &[Buffer],
        uniform: Option<(&wgpu::Buffer, u64)>,
    ) -> Result<Ready> {
        let mut entries = Vec::with_capacity(dispatch.binds.len() + 1);
        for (at, (bind, &least)) in dispatch.binds.iter().zip(&pipeline.least).enumerate() {
            let size = bind.bytes.next_multiple_of(4).max(4);
            if size < least {
                return Err(Error::input(format!(
                    "binding {at} needs {least} bytes, bound are {}",
                    bind.bytes
                )));
            }
            entries.push((buffers[bind.slot].raw(), bind.offset, size));
        }
        entries.extend(uniform.map(|(buffer, offset)| (buffer, offset, params_size(dispatch))));
        let entries: Vec<_> = entries
            .into_iter()
            .enumerate()
            .map(|(at, (buffer, offset, size))| wgpu::BindGroupEntry {
                binding: at as u32,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer,
                    offset,
                    size: wgpu::BufferSize::new(size),
                }),
            })
            .collect();
        self.objects.fetch_add(1, Relaxed);
        let bindings = self.guarded("binding", || {
            self.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: None,
                layout: &pipeline.layout,
                entries: &entries,
            })
        })?;
        Ok(Ready::Dispatch { dispatch: dispatch.clone(), pipeline, bindings })
    }

    fn check_dispatch(&self, dispatch: &Dispatch, recording: &Recording, buffers: &[Buffer]) -> Result<()> {
        let caps = self.caps();
        let unsupported = |why: String| Err(Error::unsupported(why));
        if let Some(side) = dispatch.grid.iter().find(|side| **side > caps.max_grid) {
            let most = caps.max_grid;
            return unsupported(format!("a grid of {side} workgroups, {most} is the most along one side"));
        }
        if dispatch.binds.len() > caps.storage_buffers as usize {
            let (want, most) = (dispatch.binds.len(), caps.storage_buffers);
            return unsupported(format!("{want} buffers, {most} is the most that one kernel may bind"));
        }
        for (at, bind) in dispatch.binds.iter().enumerate() {
            let Some(&bytes) = recording.buffers.get(bind.slot) else {
                return Err(Error::input(format!(
                    "binding {at} names slot {}, which does not exist",
                    bind.slot
                )));
            };
            if bind.offset.checked_add(bind.bytes).is_none_or(|end| end > bytes) {
                let (from, count) = (bind.offset, bind.bytes);
                let slot = bind.slot;
                return Err(Error::input(format!(
                    "binding {at} shows {count} bytes from byte {from} on of slot {slot}, which has {bytes}"
                )));
            }
            if !bind.offset.is_multiple_of(u64::from(caps.offset_alignment)) {
                let (offset, step) = (bind.offset, caps.offset_alignment);
                return unsupported(format!(
                    "binding {at} begins at byte {offset}, not a multiple of {step}"
                ));
            }
            if bind.bytes > caps.max_binding {
                let (want, most) = (bind.bytes, caps.max_binding);
                return unsupported(format!("binding {at} shows {want} bytes, {most} is the most"));
            }
            let same = |other: &&crate::gpu::Bind| {
                buffers.get(other.slot).is_some_and(|buffer| buffer.is_same(&buffers[bind.slot]))
            };
            if dispatch.binds[..at].iter().filter(same).any(|other| other.write || bind.write) {
                return Err(Error::input(format!(
                    "binding {at} shows a buffer that is bound twice and written"
                )));
            }
        }
        Ok(())
    }

    fn check_copy(&self, recording: &Recording, step: &Step) -> Result<()> {
        let &Step::Copy { src, src_offset, dst, dst_offset, bytes } = step else { return Ok(()) };
        let fits = |slot: usize, offset: u64| {
            let end = offset.checked_add(bytes);
            recording.buffers.get(slot).zip(end).is_some_and(|(&have, end)| end <= have.next_multiple_of(4))
        };
        let words = [src_offset, dst_offset, bytes].iter().all(|count| count.is_multiple_of(4));
        match words && src != dst && fits(src, src_offset) && fits(dst, dst_offset) {
            true => Ok(()),
            false => {
                Err(Error::input(format!("{step}: outside of a buffer, in one buffer, or not in words of 4")))
            }
        }
    }
}
