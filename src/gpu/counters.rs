//! How many bytes are in use, with MLX's three words: active, peak, cache; and where time went.
//!
//! One set of counters serves the whole engine: GPU buffers report here, and so can whoever allocates
//! arrays on the host. Staging buffers are not counted: they are fixed, small and hold no tensor.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// Time that went into one kind of work.
#[derive(Debug, Default)]
pub(crate) struct Spent(AtomicU64);

impl Spent {
    /// An empty account.
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Does the work and adds its time.
    pub(crate) fn on<T>(&self, work: impl FnOnce() -> T) -> T {
        let begin = Instant::now();
        let outcome = work();
        self.add(begin.elapsed());
        outcome
    }

    /// Adds time that was taken elsewhere.
    pub(crate) fn add(&self, time: Duration) {
        self.0.fetch_add(time.as_nanos() as u64, Relaxed);
    }

    /// All of it so far.
    pub(crate) fn so_far(&self) -> Duration {
        Duration::from_nanos(self.0.load(Relaxed))
    }
}

/// Bytes in use. Exact under any number of threads.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    active: AtomicU64,
    peak: AtomicU64,
    cache: AtomicU64,
}

/// The counters of the whole process.
pub(crate) fn counters() -> &'static Arc<Counters> {
    static COUNTERS: LazyLock<Arc<Counters>> = LazyLock::new(Arc::default);
    &COUNTERS
}

impl Counters {
    /// Bytes in live buffers.
    pub(crate) fn active(&self) -> u64 {
        self.active.load(Relaxed)
    }

    /// The most that [`Counters::active`] has been since the start or the last reset.
    pub(crate) fn peak(&self) -> u64 {
        self.peak.load(Relaxed)
    }

    /// Bytes in freed buffers that are kept for reuse.
    pub(crate) fn cache(&self) -> u64 {
        self.cache.load(Relaxed)
    }

    /// Starts a new peak at what is active now.
    pub(crate) fn reset_peak(&self) {
        self.peak.store(self.active(), Relaxed);
    }

    /// A buffer of `bytes` came to life.
    pub(crate) fn allocated(&self, bytes: u64) {
        let active = self.active.fetch_add(bytes, Relaxed) + bytes;
        self.peak.fetch_max(active, Relaxed);
    }

    /// A buffer of `bytes` is gone.
    pub(crate) fn freed(&self, bytes: u64) {
        self.active.fetch_sub(bytes, Relaxed);
    }

    pub(super) fn cached(&self, bytes: u64) {
        self.cache.fetch_add(bytes, Relaxed);
    }

    pub(super) fn uncached(&self, bytes: u64) {
        self.cache.fetch_sub(bytes, Relaxed);
    }
}
