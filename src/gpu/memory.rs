//! Buffers, and freed ones kept for reuse.
//!
//! On a unified adapter every tensor buffer can be mapped by the CPU; on a discrete one it lives in
//! device memory. Dropping the last handle of a [`Buffer`] puts its memory into a cache, from which the
//! next allocation of about that size is served; beyond the cache limit the longest unused goes first.
//! Work in flight may still use a buffer when it is freed: the queue keeps order on the GPU, and the
//! CPU waits for [`Buffer::last_use`] before it maps.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use super::device::lock;
use crate::error::{Context, Error, Result};
use crate::gpu::Gpu;

/// A buffer of GPU memory. Cloning shares it; the last drop returns it to the cache.
#[derive(Clone)]
pub struct Buffer(Arc<Inner>);

struct Inner {
    gpu: Arc<Gpu>,
    bytes: u64,
    capacity: u64,
    /// `None` only inside `drop`.
    raw: Option<wgpu::Buffer>,
    last_use: AtomicU64,
    mapping: Mutex<()>,
    /// Whether the engine's counters and cache know it.
    counted: bool,
}

impl Buffer {
    /// The size that was asked for.
    pub fn bytes(&self) -> u64 {
        self.0.bytes
    }

    /// The size it has: at least 4, a multiple of 4.
    pub fn capacity(&self) -> u64 {
        self.0.capacity
    }

    /// The device it belongs to.
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.0.gpu
    }

    /// Whether two handles share one buffer.
    pub fn is_same(&self, other: &Buffer) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(super) fn raw(&self) -> &wgpu::Buffer {
        self.0.raw.as_ref().expect("a live handle has its buffer")
    }

    /// Serial number of the last submission that uses it.
    pub(super) fn last_use(&self) -> u64 {
        self.0.last_use.load(Relaxed)
    }

    pub(super) fn used_by(&self, serial: u64) {
        self.0.last_use.fetch_max(serial, Relaxed);
    }

    /// One thread maps it at a time.
    pub(super) fn mapping(&self) -> &Mutex<()> {
        &self.0.mapping
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} bytes)", self.bytes())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let Some(raw) = self.raw.take().filter(|_| self.counted) else { return };
        self.gpu.counters.freed(self.capacity);
        let freed = Freed { raw, capacity: self.capacity, last_use: *self.last_use.get_mut() };
        self.gpu.counters.cached(self.capacity);
        let evicted = lock(&self.gpu.cache).put(freed);
        self.gpu.drop_all(evicted);
    }
}

/// A buffer nobody holds.
pub(super) struct Freed {
    raw: wgpu::Buffer,
    capacity: u64,
    last_use: u64,
}

/// Freed buffers by (capacity, when they were freed).
pub(super) struct Cache {
    limit: u64,
    bytes: u64,
    clock: u64,
    by_size: BTreeMap<(u64, u64), Freed>,
    by_age: BTreeMap<u64, u64>,
}

impl Default for Cache {
    fn default() -> Self {
        Cache { limit: 1 << 30, bytes: 0, clock: 0, by_size: BTreeMap::new(), by_age: BTreeMap::new() }
    }
}

impl Cache {
    /// A buffer of at least `want` bytes that wastes at most a quarter.
    fn take(&mut self, want: u64) -> Option<Freed> {
        let (&key, _) = self.by_size.range((want, 0)..=(want + want / 4, u64::MAX)).next()?;
        self.by_age.remove(&key.1);
        self.bytes -= key.0;
        self.by_size.remove(&key)
    }

    fn put(&mut self, freed: Freed) -> Vec<Freed> {
        self.clock += 1;
        self.bytes += freed.capacity;
        self.by_age.insert(self.clock, freed.capacity);
        self.by_size.insert((freed.capacity, self.clock), freed);
        self.shrink(self.limit)
    }

    /// Takes out the longest unused until at most `limit` bytes are left.
    fn shrink(&mut self, limit: u64) -> Vec<Freed> {
        let mut out = Vec::new();
        while self.bytes > limit {
            let Some((age, capacity)) = self.by_age.pop_first() else { break };
            self.bytes -= capacity;
            out.extend(self.by_size.remove(&(capacity, age)));
        }
        out
    }
}

impl Gpu {
    /// Memory for `bytes` bytes, with unspecified content. An empty buffer is legal.
    ///
    /// # Errors
    /// `is_memory`: larger than one buffer may be, or the device is full even after the cache was
    /// emptied.
    pub fn alloc(self: &Arc<Self>, bytes: u64) -> Result<Buffer> {
        self.allocate(bytes).map(|(buffer, _)| buffer)
    }

    /// As [`Gpu::alloc`], filled with zeros.
    ///
    /// # Errors
    /// As [`Gpu::alloc`].
    pub fn alloc_zeroed(self: &Arc<Self>, bytes: u64) -> Result<Buffer> {
        let (buffer, fresh) = self.allocate(bytes)?;
        // wgpu zeroes what nobody has written.
        if !fresh {
            let clear = |encoder: &mut wgpu::CommandEncoder| encoder.clear_buffer(buffer.raw(), 0, None);
            self.submit("zeroing a buffer", clear, |serial| buffer.used_by(serial))?;
        }
        Ok(buffer)
    }

    /// A small buffer for results: a recording copies into it, and [`Gpu::read`] maps it without a
    /// submission of its own. It cannot be bound to a kernel, and is not counted.
    ///
    /// # Errors
    /// As [`Gpu::alloc`].
    pub fn alloc_readback(self: &Arc<Self>, bytes: u64) -> Result<Buffer> {
        let capacity = self.capacity(bytes)?;
        let raw =
            self.create_buffer(capacity, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST)?;
        Ok(self.wrap(bytes, Freed { raw, capacity, last_use: 0 }, false))
    }

    fn allocate(self: &Arc<Self>, bytes: u64) -> Result<(Buffer, bool)> {
        let capacity = self.capacity(bytes)?;
        let cached = lock(&self.cache).take(capacity);
        let fresh = cached.is_none();
        let found = match cached {
            Some(found) => {
                self.counters.uncached(found.capacity);
                found
            }
            None => Freed { raw: self.create_tensor(capacity)?, capacity, last_use: 0 },
        };
        self.counters.allocated(found.capacity);
        Ok((self.wrap(bytes, found, true), fresh))
    }

    fn wrap(self: &Arc<Self>, bytes: u64, found: Freed, counted: bool) -> Buffer {
        Buffer(Arc::new(Inner {
            gpu: self.clone(),
            bytes,
            capacity: found.capacity,
            raw: Some(found.raw),
            last_use: AtomicU64::new(found.last_use),
            mapping: Mutex::new(()),
            counted,
        }))
    }

    fn capacity(&self, bytes: u64) -> Result<u64> {
        let most = self.caps().max_buffer & !3;
        if bytes > most {
            let name = self.name();
            return Err(Error::memory(format!(
                "a buffer of {bytes} bytes: {name} allows {most} bytes in one buffer"
            )));
        }
        Ok(bytes.next_multiple_of(4).max(4))
    }

    fn create_tensor(&self, capacity: u64) -> Result<wgpu::Buffer> {
        use wgpu::BufferUsages as Usages;
        let mut usage = Usages::STORAGE | Usages::COPY_SRC | Usages::COPY_DST;
        if self.caps().unified {
            usage |= Usages::MAP_READ | Usages::MAP_WRITE;
        }
        self.create_buffer(capacity, usage).or_else(|e| {
            if !e.is_memory() {
                return Err(e);
            }
            // Memory of dropped buffers is only given back when the GPU is done with them.
            self.clear_cache();
            self.wait()?;
            self.create_buffer(capacity, usage)
        })
    }

    pub(super) fn create_buffer(&self, size: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer> {
        self.objects.fetch_add(1, Relaxed);
        let descriptor = wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false };
        self.guarded("allocating", || self.device.create_buffer(&descriptor))
            .with_context(|| format!("a buffer of {size} bytes"))
    }

    /// Keeps at most `bytes` of freed buffers (1 GiB at first); returns the limit before.
    pub fn set_cache_limit(&self, bytes: u64) -> u64 {
        let (before, evicted) = {
            let cache = &mut *lock(&self.cache);
            (std::mem::replace(&mut cache.limit, bytes), cache.shrink(bytes))
        };
        self.drop_all(evicted);
        before
    }

    /// Gives all freed buffers back to the driver.
    pub fn clear_cache(&self) {
        let evicted = lock(&self.cache).shrink(0);
        self.drop_all(evicted);
    }

    /// Outside the cache's lock: the driver may take its time.
    fn drop_all(&self, evicted: Vec<Freed>) {
        self.counters.uncached(evicted.iter().map(|freed| freed.capacity).sum());
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        self.save_pipelines();
        self.clear_cache();
    }
}
