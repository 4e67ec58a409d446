//! Where elements live, and who counts them.
//!
//! A `Buffer` is host memory, a mapped file, or GPU memory; arrays and plans hold it and do not care
//! which. Host and GPU allocations are counted in one place, exactly, under the names that MLX gave them:
//! active, peak, cache. [`MemoryPool`] is a set of arrays that are counted and freed together.

use crate::array::{Device, MLXArray};
use crate::error::{Error, Result};
use crate::gpu::{self, Gpu, Recording, Step};
use crate::layout::ArrayShape;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Bytes in live buffers of arrays, models and caches, on the host and on the GPU.
pub fn active_memory() -> u64 {
    gpu::counters().active()
}

/// The most that [`active_memory`] has been since the start, or since [`reset_peak_memory`].
pub fn peak_memory() -> u64 {
    gpu::counters().peak()
}

/// Bytes of freed GPU buffers that are kept for reuse.
pub fn cache_memory() -> u64 {
    gpu::counters().cache()
}

/// Starts a new peak at what is active now.
pub fn reset_peak_memory() {
    gpu::counters().reset_peak();
}

/// Keeps at most this many bytes of freed GPU buffers; returns the limit before. Without a GPU, nothing.
pub fn set_cache_limit(bytes: u64) -> u64 {
    Gpu::shared().map_or(0, |gpu| gpu.set_cache_limit(bytes))
}

/// Gives all freed GPU buffers back to the driver.
pub fn clear_cache() {
    if let Some(gpu) = Gpu::opened() {
        gpu.clear_cache();
    }
}

/// Bytes of main memory that are free to use, where the system says so.
pub fn host_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kb| kb * 1024)
}

/// `"unified"` where the CPU maps tensor buffers, `"discrete"` where copies are staged.
///
/// # Errors
/// No adapter.
pub fn kind() -> Result<&'static str> {
    Ok(Gpu::shared()?.memory_kind())
}

/// Copies to or from staging buffers so far; none on a unified adapter.
pub fn staged_copies() -> u64 {
    Gpu::opened().map_or(0, |gpu| gpu.staged_copies())
}

/// Bytes of main memory that are worth asking first whether they are there.
const LARGE: usize = 64 << 20;

/// Bytes that somebody else keeps alive: a mapped file, an embedded model.
pub(crate) type Shared = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Memory that holds the elements of one array.
#[derive(Clone)]
pub(crate) enum Buffer {
    Host(Arc<HostBuffer>),
    /// Read-only, aligned to 4 bytes.
    Mapped(Shared, Range<usize>),
    Gpu(gpu::Buffer),
}

/// Counted host memory, zeroed, in whole words so that every dtype is aligned.
pub(crate) struct HostBuffer {
    words: RwLock<Vec<u32>>,
}

impl HostBuffer {
    fn new(words: Vec<u32>) -> Self {
        gpu::counters().allocated(4 * words.len() as u64);
        Self { words: RwLock::new(words) }
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Vec<u32>> {
        self.words.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Vec<u32>> {
        self.words.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for HostBuffer {
    fn drop(&mut self) {
        let words = self.words.get_mut().unwrap_or_else(PoisonError::into_inner);
        gpu::counters().freed(4 * words.len() as u64);
    }
}

/// Read access to a host buffer while it lives; of a GPU's there is nothing to see.
pub(crate) enum View<'a> {
    Locked(RwLockReadGuard<'a, Vec<u32>>),
    Mapped(&'a [u8]),
}

impl<'a> View<'a> {
    pub(crate) fn of(buffer: &'a Buffer) -> Self {
        match buffer {
            Buffer::Host(host) => Self::Locked(host.read()),
            Buffer::Mapped(shared, range) => Self::Mapped(&(**shared).as_ref()[range.clone()]),
            Buffer::Gpu(_) => Self::Mapped(&[]),
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Locked(words) => bytemuck::cast_slice(words),
            Self::Mapped(bytes) => bytes,
        }
    }
}

impl Buffer {
    /// Zeroed memory on a device.
    ///
    /// # Errors
    /// No adapter, or not enough memory.
    pub(crate) fn zeroed(bytes: usize, device: Device) -> Result<Self> {
        match device {
            Device::CPU => Self::host_zeroed(bytes),
            Device::GPU => Ok(Self::Gpu(Gpu::shared()?.alloc_zeroed(bytes as u64)?)),
        }
    }

    /// # Errors
    /// Not enough memory.
    pub(crate) fn host_zeroed(bytes: usize) -> Result<Self> {
        let lacking =
            |free: &str| Error::memory(format!("{bytes} bytes of main memory are asked for, {free}"));
        // Systems promise more than they have, and end a process that takes it.
        if bytes >= LARGE
            && let Some(free) = host_memory().filter(|&free| (bytes as u64) > free)
        {
            return Err(lacking(&format!("{free} are free")));
        }
        let words = bytemuck::allocation::try_zeroed_vec(bytes.div_ceil(4));
        Ok(Self::Host(Arc::new(HostBuffer::new(words.map_err(|()| lacking("which the system refuses"))?))))
    }

    /// The words become the buffer's; nothing is copied where the types allow.
    pub(crate) fn from_f32(data: Vec<f32>) -> Self {
        let words =
            bytemuck::try_cast_vec(data).unwrap_or_else(|(_, data)| bytemuck::cast_slice(&data).to_vec());
        Self::Host(Arc::new(HostBuffer::new(words)))
    }

    /// A copy of packed elements on a device.
    ///
    /// # Errors
    /// As [`Buffer::zeroed`].
    pub(crate) fn from_bytes(bytes: &[u8], device: Device) -> Result<Self> {
        let buffer = Self::unfilled(bytes.len(), device)?;
        buffer.write(bytes)?;
        Ok(buffer)
    }

    /// The first `bytes` of it on another device, copied once.
    ///
    /// # Errors
    /// As [`Buffer::zeroed`]; a device that does not answer.
    pub(crate) fn moved(&self, bytes: usize, device: Device) -> Result<Self> {
        let to = Self::unfilled(bytes, device)?;
        match (self, &to) {
            (_, Self::Host(host)) => self.read(&mut bytemuck::cast_slice_mut(&mut host.write())[..bytes])?,
            (Self::Gpu(_), _) => to.copy_from(self, &[[0, 0, bytes]])?,
            _ => to.write(&View::of(self).bytes()[..bytes])?,
        }
        Ok(to)
    }

    /// Memory whose content does not matter yet.
    ///
    /// # Errors
    /// As [`Buffer::zeroed`].
    pub(crate) fn unfilled(bytes: usize, device: Device) -> Result<Self> {
        match device {
            Device::CPU => Self::host_zeroed(bytes),
            Device::GPU => Ok(Self::Gpu(Gpu::shared()?.alloc(bytes as u64)?)),
        }
    }

    pub(crate) fn device(&self) -> Device {
        match self {
            Self::Host(_) | Self::Mapped(..) => Device::CPU,
            Self::Gpu(_) => Device::GPU,
        }
    }

    /// Copies the first `out.len()` bytes out.
    ///
    /// # Errors
    /// A device that does not answer.
    pub(crate) fn read(&self, out: &mut [u8]) -> Result<()> {
        match self {
            Self::Gpu(buffer) => buffer.gpu().read(buffer, 0, out)?,
            _ => out.copy_from_slice(&View::of(self).bytes()[..out.len()]),
        }
        Ok(())
    }

    /// Copies parts `[offset there, offset here, bytes]` of another buffer of the same device, which copies them itself.
    ///
    /// # Errors
    /// A device that does not answer.
    pub(crate) fn copy_from(&self, from: &Self, parts: &[[usize; 3]]) -> Result<()> {
        // Devices copy whole words.
        let words = parts.iter().flatten().all(|n| n % 4 == 0);
        if let (Self::Gpu(from), Self::Gpu(to), true) = (from, self, words) {
            let steps = parts.iter().map(|&[src_offset, dst_offset, bytes]| Step::Copy {
                src: 0,
                src_offset: src_offset as u64,
                dst: 1,
                dst_offset: dst_offset as u64,
                bytes: bytes as u64,
            });
            let recording = Recording { buffers: vec![from.bytes(), to.bytes()], steps: steps.collect() };
            let gpu = to.gpu();
            return gpu.run(&gpu.prepare(&recording, &[from.clone(), to.clone()])?);
        }
        let end = |i: usize| parts.iter().map(|part| part[i] + part[2]).max().unwrap_or(0);
        let [mut there, mut here] = [vec![0; end(0)], vec![0; end(1)]];
        from.read(&mut there)?;
        self.read(&mut here)?;
        for &[src, dst, bytes] in parts {
            here[dst..][..bytes].copy_from_slice(&there[src..][..bytes]);
        }
        self.write(&here)
    }

    /// Overwrites the first `data.len()` bytes. A mapped file is never written: nobody asks.
    ///
    /// # Errors
    /// A device that does not answer.
    pub(crate) fn write(&self, data: &[u8]) -> Result<()> {
        match self {
            Self::Host(host) => {
                bytemuck::cast_slice_mut(&mut host.write())[..data.len()].copy_from_slice(data)
            }
            Self::Mapped(..) => return Err(crate::Error::input("a mapped file cannot be written")),
            Self::Gpu(buffer) => buffer.gpu().write(buffer, 0, data)?,
        }
        Ok(())
    }

    /// Copies bytes to another place in the same buffer, for each of some buffers of one device: from where, to
    /// where, how many, all multiples of 4. The places do not overlap.
    ///
    /// # Errors
    /// Not enough memory for what a GPU needs meanwhile; a device that does not answer.
    pub(crate) fn copy_within(moves: &[(Self, usize, usize, usize)]) -> Result<()> {
        let mut buffers = Vec::new();
        for (buffer, from, to, bytes) in moves {
            match buffer {
                Self::Host(host) => host.write().copy_within(from / 4..(from + bytes) / 4, to / 4),
                Self::Mapped(..) => return Err(crate::Error::input("a mapped file cannot be written")),
                Self::Gpu(buffer) => buffers.push((buffer.clone(), *from as u64, *to as u64, *bytes as u64)),
            }
        }
        let most = buffers.iter().map(|(.., bytes)| *bytes).max().unwrap_or(0);
        if most == 0 {
            return Ok(());
        }
        // A GPU copies only between two buffers.
        let gpu = Gpu::shared()?;
        let between = buffers.len();
        let mut recording = gpu::Recording::default();
        for (slot, (buffer, from, to, bytes)) in buffers.iter().enumerate() {
            recording.buffers.push(buffer.bytes());
            recording.steps.extend([
                gpu::Step::Copy { src: slot, src_offset: *from, dst: between, dst_offset: 0, bytes: *bytes },
                gpu::Step::Copy { src: between, src_offset: 0, dst: slot, dst_offset: *to, bytes: *bytes },
            ]);
        }
        recording.buffers.push(most);
        let mut all: Vec<gpu::Buffer> = buffers.into_iter().map(|(buffer, ..)| buffer).collect();
        all.push(gpu.alloc(most)?);
        gpu.run(&gpu.prepare(&recording, &all)?)
    }
}

/// A set of arrays that are counted, moved and freed together.
///
/// ```
/// use unimlx::{ArrayShape, Device, MemoryPool};
/// let mut pool = MemoryPool::new(Device::CPU);
/// let a = pool.allocate(vec![1.0; 100], ArrayShape::Shape1D(100));
/// assert_eq!(pool.memory_usage(), 400);
/// pool.clear();
/// assert_eq!((pool.memory_usage(), a.data()[0]), (0, 1.0)); // who still holds an array keeps it
/// ```
#[derive(Clone, Debug)]
pub struct MemoryPool {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    arrays: Vec<MLXArray>,
    device: Device,
}

impl MemoryPool {
    /// An empty pool that allocates on `device` (on the CPU where there is no GPU).
    pub fn new(device: Device) -> Self {
        Self { inner: Arc::new(Mutex::new(Inner { arrays: Vec::new(), device: device.or_fallback() })) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes an array on the pool's device and keeps it.
    ///
    /// # Panics
    /// If the data does not fill the shape, or memory is exhausted; [`MemoryPool::try_allocate`] does not.
    #[track_caller]
    pub fn allocate(&mut self, data: Vec<f32>, shape: ArrayShape) -> MLXArray {
        self.try_allocate(data, shape).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Makes an array on the pool's device and keeps it.
    ///
    /// # Errors
    /// Data that does not fill the shape; memory exhausted.
    pub fn try_allocate(&mut self, data: Vec<f32>, shape: ArrayShape) -> Result<MLXArray> {
        let mut inner = self.lock();
        let array = MLXArray::try_new_cpu(data, shape)?.try_to_device(inner.device)?;
        inner.arrays.push(array.clone());
        Ok(array)
    }

    /// Bytes of the elements of the pool's arrays.
    pub fn memory_usage(&self) -> usize {
        self.lock().arrays.iter().map(MLXArray::nbytes).sum()
    }

    /// Number of arrays.
    pub fn len(&self) -> usize {
        self.lock().arrays.len()
    }

    /// Whether the pool holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the pool allocates.
    pub fn device(&self) -> Device {
        self.lock().device
    }

    /// The pool's arrays, in the order of allocation.
    pub fn arrays(&self) -> Vec<MLXArray> {
        self.lock().arrays.clone()
    }

    /// Lets go of every array. Memory returns when nobody else holds them.
    pub fn clear(&mut self) {
        self.lock().arrays.clear();
    }

    /// Moves every array, and where the pool allocates from now on. Without a GPU all stays on the CPU.
    ///
    /// # Panics
    /// If a transfer fails; [`MemoryPool::try_move_to_device`] does not.
    #[track_caller]
    pub fn move_to_device(&mut self, device: Device) {
        self.try_move_to_device(device.or_fallback()).unwrap_or_else(|e| panic!("{e}"));
    }

    /// Moves every array, and where the pool allocates from now on.
    ///
    /// # Errors
    /// No adapter, or a transfer that failed; then nothing has moved.
    pub fn try_move_to_device(&mut self, device: Device) -> Result<()> {
        let mut inner = self.lock();
        let moved: Result<Vec<_>> = inner.arrays.iter().map(|a| a.try_to_device(device)).collect();
        inner.arrays = moved?;
        inner.device = device;
        Ok(())
    }
}
