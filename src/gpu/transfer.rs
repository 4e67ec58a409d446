//! Bytes between the CPU and GPU buffers.
//!
//! One API, two ways. On a unified adapter a buffer is mapped and the CPU writes or reads the tensor
//! where it lies. On a discrete one, uploads go through a ring of staging buffers (one is filled while
//! the copies of the others run) and downloads through one readback buffer. Copies work on words of
//! 4 bytes; an odd edge is widened to its word, whose other bytes are kept.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::device::lock;
use crate::error::{Context, Error, Result};
use crate::gpu::{Buffer, Gpu};

/// Size of one staging buffer.
const CHUNK: u64 = 16 << 20;
/// How many take turns.
const RING: usize = 3;

/// Staging buffers, made on first use.
#[derive(Default)]
pub(super) struct Staging {
    /// With the submission that last copied from it.
    ring: Vec<(wgpu::Buffer, u64)>,
    next: usize,
    readback: Option<wgpu::Buffer>,
}

/// Unmaps when dropped, whatever happened in between.
pub(super) struct Mapped<'a>(&'a wgpu::Buffer);

impl Drop for Mapped<'_> {
    fn drop(&mut self) {
        self.0.unmap();
    }
}

impl Gpu {
    /// Copies `data` into `buffer`, beginning at byte `offset`.
    ///
    /// # Errors
    /// `is_input` if it does not fit; `is_device`.
    pub fn write(&self, buffer: &Buffer, offset: u64, data: &[u8]) -> Result<()> {
        self.write_with(buffer, offset, data.len() as u64, |at, bytes| {
            bytes.copy_from_slice(&data[at as usize..][..bytes.len()]);
            Ok(())
        })
    }

    /// Lets `fill` write `bytes` bytes of `buffer` from `offset` on, in place or in staging memory: it
    /// is called for one chunk after another with the number of bytes before the chunk. It must not use
    /// this device. The memory may be slow to read; if `fill` fails, the content is unspecified.
    ///
    /// # Errors
    /// `is_input` if it does not fit; `is_device`; whatever `fill` returns.
    pub fn write_with(
        &self,
        buffer: &Buffer,
        offset: u64,
        bytes: u64,
        fill: impl FnMut(u64, &mut [u8]) -> Result<()>,
    ) -> Result<()> {
        check_range("writing", buffer, offset, bytes)?;
        if bytes == 0 {
            return Ok(());
        }
        match buffer.raw().usage().contains(wgpu::BufferUsages::MAP_WRITE) {
            true => self.write_mapped(buffer, offset, bytes, fill),
            false => self.write_staged(buffer, offset, bytes, fill),
        }
        .with_context(|| format!("writing {bytes} bytes to the GPU"))
    }

    /// Copies from `buffer`, beginning at byte `offset`, once the GPU is done with it.
    ///
    /// # Errors
    /// `is_input` if it holds less; `is_device`.
    pub fn read(&self, buffer: &Buffer, offset: u64, out: &mut [u8]) -> Result<()> {
        let bytes = out.len() as u64;
        check_range("reading", buffer, offset, bytes)?;
        if bytes == 0 {
            return Ok(());
        }
        match buffer.raw().usage().contains(wgpu::BufferUsages::MAP_READ) {
            true => self.read_mapped(buffer, offset, out),
            false => self.read_staged(buffer, offset, out),
        }
        .with_context(|| format!("reading {bytes} bytes from the GPU"))
    }

    /// The whole of `buffer`.
    ///
    /// # Errors
    /// `is_device`.
    pub fn read_vec(&self, buffer: &Buffer) -> Result<Vec<u8>> {
        let mut out = vec![0; buffer.bytes() as usize];
        self.read(buffer, 0, &mut out)?;
        Ok(out)
    }

    /// Bytes that went through staging, both ways: 0 on a unified adapter.
    pub fn staged_bytes(&self) -> u64 {
        self.staged_bytes.load(Relaxed)
    }

    /// Copies to or from staging buffers: 0 on a unified adapter.
    pub fn staged_copies(&self) -> u64 {
        self.staged_copies.load(Relaxed)
    }

    /// Buffers and bind groups made so far: none for a token once everything is warm.
    pub fn objects_made(&self) -> u64 {
        self.objects.load(Relaxed)
    }

    /// `"unified"` or `"discrete"`.
    pub fn memory_kind(&self) -> &'static str {
        if self.caps().unified { "unified" } else { "discrete" }
    }

    /// What [`Gpu::memory_kind`] means, in one sentence.
    pub fn memory_note(&self) -> &'static str {
        match self.caps().unified {
            true => "the CPU maps tensor buffers and reads and writes them in place",
            false => "tensors live in device memory and are written and read through staging buffers",
        }
    }

    /// Writes up to 64 MiB the way tensors are written, and returns GB/s.
    ///
    /// # Errors
    /// `is_memory`, `is_device`.
    pub fn measure_upload(self: &Arc<Self>) -> Result<f64> {
        let bytes = self.caps().max_buffer.min(64 << 20);
        let buffer = self.alloc(bytes)?;
        let data: Vec<u8> = (0..bytes).map(|i| i as u8).collect();
        // The first time makes the staging buffers and touches the pages.
        self.write(&buffer, 0, &data)?;
        self.wait()?;
        let start = Instant::now();
        self.write(&buffer, 0, &data)?;
        self.wait()?;
        Ok(bytes as f64 / start.elapsed().as_secs_f64() / 1e9)
    }

    fn write_mapped(
        &self,
        buffer: &Buffer,
        offset: u64,
        bytes: u64,
        mut fill: impl FnMut(u64, &mut [u8]) -> Result<()>,
    ) -> Result<()> {
        self.in_place(buffer, wgpu::MapMode::Write, offset, bytes, |range, skip| {
            with_mapped(range, |all| fill(0, &mut all[skip..][..bytes as usize]))
        })
    }

    fn read_mapped(&self, buffer: &Buffer, offset: u64, out: &mut [u8]) -> Result<()> {
        self.in_place(buffer, wgpu::MapMode::Read, offset, out.len() as u64, |range, skip| {
            let view = range.get_mapped_range().map_err(Error::device)?;
            out.copy_from_slice(&view[skip..][..out.len()]);
            Ok(())
        })
    }

    /// Maps the part of a tensor buffer that holds the given bytes; the closure gets it and how many of
    /// its bytes come before them.
    fn in_place(
        &self,
        buffer: &Buffer,
        mode: wgpu::MapMode,
        offset: u64,
        bytes: u64,
        look: impl FnOnce(wgpu::BufferSlice<'_>, usize) -> Result<()>,
    ) -> Result<()> {
        let _one = lock(buffer.mapping());
        // Wait first, so that the gate is held for the time of a memory copy only.
        self.wait_until(buffer.last_use())?;
        let _gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        let start = offset / wgpu::MAP_ALIGNMENT * wgpu::MAP_ALIGNMENT;
        let end = (offset + bytes).next_multiple_of(wgpu::COPY_BUFFER_ALIGNMENT);
        let _mapped = self.map(buffer.raw(), mode, start..end)?;
        look(buffer.raw().slice(start..end), (offset - start) as usize)
    }

    /// Maps a buffer that the GPU is done with, or soon will be.
    pub(super) fn map<'a>(
        &self,
        buffer: &'a wgpu::Buffer,
        mode: wgpu::MapMode,
        range: std::ops::Range<u64>,
    ) -> Result<Mapped<'a>> {
        let (sender, answer) = mpsc::channel();
        self.guarded("mapping", || {
            buffer.slice(range).map_async(mode, move |outcome| {
                let _ = sender.send(outcome);
            });
        })?;
        let mapped = Mapped(buffer);
        let deadline = Instant::now() + self.timeout;
        loop {
            self.poll(wgpu::PollType::Poll)?;
            // Another thread's poll may be about to deliver the answer.
            match answer.recv_timeout(Duration::from_micros(200)) {
                Ok(Ok(())) => return Ok(mapped),
                Ok(Err(e)) => return Err(Error::device(e).context("mapping")),
                Err(mpsc::RecvTimeoutError::Timeout) if Instant::now() < deadline => self.wait()?,
                Err(_) => return Err(Error::device("the GPU did not hand over a buffer in time")),
            }
        }
    }

    fn write_staged(
        &self,
        buffer: &Buffer,
        offset: u64,
        bytes: u64,
        mut fill: impl FnMut(u64, &mut [u8]) -> Result<()>,
    ) -> Result<()> {
        let end = offset + bytes;
        let (from, to) = (offset & !3, end.next_multiple_of(4));
        // The bytes of the edge words that are not ours.
        let (mut head, mut tail) = ([0; 4], [0; 4]);
        if from < offset {
            self.read_staged(buffer, from, &mut head)?;
        }
        if to > end && end < buffer.bytes() {
            self.read_staged(buffer, to - 4, &mut tail)?;
        }
        let staging = &mut *lock(&self.staging);
        let mut at = from;
        while at < to {
            let size = CHUNK.min(to - at);
            let (slot, copied) = staging.slot(self)?;
            self.wait_until(*copied)?;
            let mapped = self.map(slot, wgpu::MapMode::Write, 0..size)?;
            with_mapped(slot.slice(..size), |words| {
                if at < offset {
                    words[..4].copy_from_slice(&head);
                }
                if at + size > end {
                    words[size as usize - 4..].copy_from_slice(&tail);
                    // A first word that is also the last has both edges.
                    if at < offset && size == 4 {
                        words[..(offset - at) as usize].copy_from_slice(&head[..(offset - at) as usize]);
                    }
                }
                let first = at.max(offset);
                fill(first - offset, &mut words[(first - at) as usize..(end.min(at + size) - at) as usize])
            })?;
            drop(mapped);
            let copy = |encoder: &mut wgpu::CommandEncoder| {
                encoder.copy_buffer_to_buffer(slot, 0, buffer.raw(), at, size);
            };
            self.count_staged(size);
            *copied = self.submit("uploading", copy, |serial| buffer.used_by(serial))?;
            at += size;
        }
        Ok(())
    }

    fn read_staged(&self, buffer: &Buffer, offset: u64, out: &mut [u8]) -> Result<()> {
        let staging = &mut *lock(&self.staging);
        let readback = match &mut staging.readback {
            Some(readback) => readback,
            none => none.insert(
                self.create_buffer(CHUNK, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST)?,
            ),
        };
        let mut done = 0;
        while done < out.len() {
            let first = offset + done as u64;
            let from = first & !3;
            let size = CHUNK.min((offset + out.len() as u64).next_multiple_of(4) - from);
            let copy = |encoder: &mut wgpu::CommandEncoder| {
                encoder.copy_buffer_to_buffer(buffer.raw(), from, readback, 0, size);
            };
            self.count_staged(size);
            let serial = self.submit("downloading", copy, |serial| buffer.used_by(serial))?;
            self.wait_until(serial)?;
            let _mapped = self.map(readback, wgpu::MapMode::Read, 0..size)?;
            let view = readback.slice(..size).get_mapped_range().map_err(Error::device)?;
            let part = &view[(first - from) as usize..];
            let count = part.len().min(out.len() - done);
            out[done..done + count].copy_from_slice(&part[..count]);
            done += count;
        }
        Ok(())
    }

    fn count_staged(&self, bytes: u64) {
        self.staged_bytes.fetch_add(bytes, Relaxed);
        self.staged_copies.fetch_add(1, Relaxed);
    }
}

impl Staging {
    /// The next staging buffer in turn, and the submission that must be over before it is filled.
    fn slot(&mut self, gpu: &Gpu) -> Result<(&wgpu::Buffer, &mut u64)> {
        self.next = (self.next + 1) % RING;
        if self.ring.len() < RING {
            let usage = wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC;
            self.next = self.ring.len();
            self.ring.push((gpu.create_buffer(CHUNK, usage)?, 0));
        }
        let (buffer, copied) = &mut self.ring[self.next];
        Ok((buffer, copied))
    }
}

/// The bytes of a range mapped for writing.
pub(super) fn with_mapped(
    range: wgpu::BufferSlice<'_>,
    fill: impl FnOnce(&mut [u8]) -> Result<()>,
) -> Result<()> {
    let mut view = range.get_mapped_range_mut().map_err(Error::device)?;
    let mut bytes = view.slice(..);
    let (pointer, length) = (bytes.as_raw_element_ptr(), bytes.len());
    // SAFETY: natively the view is plain host memory that wgpu has initialised, `length` bytes long and
    // ours alone until `view` is dropped, after `fill` has returned. (wgpu hands out a write-only
    // pointer because such memory may be slow to read, which `write_with` tells its callers.)
    fill(unsafe { std::slice::from_raw_parts_mut(pointer.as_ptr(), length) })
}

pub(super) fn check_range(what: &str, buffer: &Buffer, offset: u64, bytes: u64) -> Result<()> {
    match offset.checked_add(bytes).is_some_and(|end| end <= buffer.bytes()) {
        true => Ok(()),
        false => Err(Error::input(format!(
            "{what} {bytes} bytes at byte {offset} of a buffer of {} bytes",
            buffer.bytes()
        ))),
    }
}
