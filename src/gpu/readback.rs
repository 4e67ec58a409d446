//! A few bytes back from the GPU without stopping it.
//!
//! [`Gpu::read_later`] copies into a small buffer that the CPU can map, behind the work submitted so far,
//! and [`Gpu::run_and_read`] does so in the submission that computes them. Both return at once with a
//! [`Pending`], so that the next step can be submitted before this one's result is waited for. The buffers
//! go back to a pool.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use super::device::lock;
use super::encode::Tail;
use super::transfer::check_range;
use crate::error::{Context, Error, Result};
use crate::gpu::{Buffer, Gpu, Prepared, Ticket};

/// Buffers kept for later; each is as large as the largest read it served.
const POOLED: usize = 32;

const WAITING: u8 = 0;
const MAPPED: u8 = 1;
const FAILED: u8 = 2;

/// A buffer that the CPU can map.
pub(super) struct Slot {
    raw: wgpu::Buffer,
    capacity: u64,
    state: Arc<AtomicU8>,
}

/// What one copy reads, in whole words.
pub(super) struct Words<'a> {
    from: &'a Buffer,
    start: u64,
    size: u64,
}

/// Bytes on their way from the GPU.
#[must_use = "the bytes are there after `wait`"]
pub struct Pending {
    gpu: Arc<Gpu>,
    /// `None` once it is back in the pool.
    slot: Option<Slot>,
    skip: usize,
    bytes: usize,
    ticket: Ticket,
}

impl Slot {
    /// Copies `words` to the beginning.
    pub(super) fn copy(&self, encoder: &mut wgpu::CommandEncoder, words: &Words<'_>) {
        encoder.copy_buffer_to_buffer(words.from.raw(), words.start, &self.raw, 0, words.size);
    }

    /// Asks for the first `size` bytes to be mapped when the copy is done.
    fn map(&self, size: u64) {
        let state = self.state.clone();
        self.raw.slice(..size).map_async(wgpu::MapMode::Read, move |outcome| {
            state.store(if outcome.is_ok() { MAPPED } else { FAILED }, Ordering::Release);
        });
    }
}

impl Gpu {
    /// Copies `bytes` bytes of `buffer` from `offset` on, once everything submitted so far is done, without
    /// waiting for that.
    ///
    /// # Errors
    /// `is_input` if the buffer holds less; `is_memory`, `is_device`.
    pub fn read_later(self: &Arc<Self>, buffer: &Buffer, offset: u64, bytes: u64) -> Result<Pending> {
        self.read_behind(buffer, offset, bytes, |slot, words, map| {
            let used = |serial| words.from.used_by(serial);
            self.submit_then("reading back", |encoder| slot.copy(encoder, words), map, used)
        })
    }

    /// [`Gpu::start`], and [`Gpu::read_later`] in the same submission.
    ///
    /// # Errors
    /// As both.
    pub fn run_and_read(
        self: &Arc<Self>,
        prepared: &Prepared,
        buffer: &Buffer,
        offset: u64,
        bytes: u64,
    ) -> Result<Pending> {
        self.read_behind(buffer, offset, bytes, |slot, words, map| {
            let serial = prepared.submit_all(Tail { read: Some((slot, words)), then: Some(map) })?;
            words.from.used_by(serial);
            Ok(serial)
        })
    }

    fn read_behind(
        self: &Arc<Self>,
        buffer: &Buffer,
        offset: u64,
        bytes: u64,
        submit: impl FnOnce(&Slot, &Words<'_>, &dyn Fn()) -> Result<u64>,
    ) -> Result<Pending> {
        check_range("reading", buffer, offset, bytes)?;
        let start = offset & !3;
        let size = ((offset + bytes).next_multiple_of(4) - start).max(4);
        let slot = self.slot(size)?;
        let words = Words { from: buffer, start: start.min(buffer.capacity() - size), size };
        let serial = submit(&slot, &words, &|| slot.map(size))?;
        let skip = (offset - words.start) as usize;
        Ok(Pending {
            gpu: self.clone(),
            slot: Some(slot),
            skip,
            bytes: bytes as usize,
            ticket: Ticket::new(serial),
        })
    }

    fn slot(&self, size: u64) -> Result<Slot> {
        let pooled = {
            let pool = &mut *lock(&self.readbacks);
            let fit = pool.iter().position(|slot| slot.capacity >= size);
            fit.map(|at| pool.swap_remove(at))
        };
        if let Some(slot) = pooled {
            slot.state.store(WAITING, Ordering::Release);
            return Ok(slot);
        }
        let capacity = size.next_power_of_two().max(256);
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        Ok(Slot { raw: self.create_buffer(capacity, usage)?, capacity, state: Arc::default() })
    }
}

impl Pending {
    /// The submission that the bytes come with.
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Waits for the bytes; work submitted later goes on meanwhile.
    ///
    /// # Errors
    /// `is_device`: a submission took longer than [`Options::timeout`](super::Options::timeout), or the
    /// device is lost.
    pub fn wait(self) -> Result<Vec<u8>> {
        let mut out = vec![0; self.bytes];
        self.wait_into(&mut out)?;
        Ok(out)
    }

    /// [`Pending::wait`] into memory of the caller's, as long as what was asked for.
    ///
    /// # Errors
    /// `is_input`: another length; as [`Pending::wait`].
    pub fn wait_into(mut self, out: &mut [u8]) -> Result<()> {
        if out.len() != self.bytes {
            let (have, want) = (out.len(), self.bytes);
            return Err(Error::input(format!("{want} bytes were asked for, not {have}")));
        }
        let Some(slot) = &self.slot else { return Ok(()) };
        let gpu = &self.gpu;
        gpu.wait_for(self.ticket).context("reading back")?;
        let deadline = Instant::now() + gpu.timeout;
        loop {
            match slot.state.load(Ordering::Acquire) {
                MAPPED => break,
                FAILED => return Err(Error::device("the GPU did not hand over what was read back")),
                _ if Instant::now() > deadline => {
                    return Err(Error::device("the GPU did not hand over what was read back in time"));
                }
                // Another thread's poll may be about to say so.
                _ => {
                    gpu.poll(wgpu::PollType::Poll)?;
                    if slot.state.load(Ordering::Acquire) == WAITING {
                        std::thread::sleep(Duration::from_micros(20));
                    }
                }
            }
        }
        let end = (self.skip + self.bytes).next_multiple_of(4).max(4) as u64;
        let view = slot.raw.slice(..end).get_mapped_range().map_err(Error::device)?;
        out.copy_from_slice(&view[self.skip..][..self.bytes]);
        drop(view);
        slot.raw.unmap();
        let pool = &mut *lock(&gpu.readbacks);
        if let Some(slot) = self.slot.take().filter(|_| pool.len() < POOLED) {
            pool.push(slot);
        }
        Ok(())
    }
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pending({} bytes)", self.bytes)
    }
}
