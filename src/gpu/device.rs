//! A device, and living with one that fails.
//!
//! Every call into wgpu that may fail runs inside [`Gpu::guarded`]: error scopes catch what wgpu
//! reports, `catch_unwind` what it panics about (polling a lost device does), and a lost device is
//! remembered so that the next call says so at once. Submissions get serial numbers; a wait goes
//! through them one by one, each within [`Options::timeout`](super::Options::timeout), so slow is not mistaken for stuck.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use crate::error::{Context, Error, Result};
use crate::gpu::{Caps, Counters, Options, counters};

use super::disk::Kept;
use super::memory::Cache;
use super::pipeline::{Key, Pipeline};
use super::readback::Slot;
use super::transfer::Staging;

/// Submissions in flight before `submit` waits for the oldest.
const MAX_IN_FLIGHT: usize = 256;

/// An open device. Buffers and prepared recordings keep it alive.
pub struct Gpu {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    info: wgpu::AdapterInfo,
    caps: Caps,
    pub(super) checked: bool,
    pub(super) timeout: Duration,
    health: Arc<Health>,
    switched_off: Mutex<Vec<String>>,
    pub(super) counters: Arc<Counters>,
    pub(super) cache: Mutex<Cache>,
    pub(super) staging: Mutex<Staging>,
    pub(super) staged_bytes: AtomicU64,
    pub(super) staged_copies: AtomicU64,
    /// Buffers and bind groups that were made.
    pub(super) objects: AtomicU64,
    pub(super) pipelines: Mutex<HashMap<Key, Arc<Pipeline>>>,
    pub(super) kept: Kept,
    pub(super) readbacks: Mutex<Vec<Slot>>,
    /// Held shared while a tensor buffer is mapped and alone by a submission: wgpu refuses to submit
    /// work on a mapped buffer, and one thread may well read what another computes with.
    pub(super) gate: RwLock<()>,
    flight: Mutex<Flight>,
}

/// Work submitted to a device; those of one device are ordered by when it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

impl Ticket {
    pub(super) fn new(serial: u64) -> Ticket {
        Ticket(serial)
    }
}

/// What went wrong outside of any call.
#[derive(Default)]
struct Health {
    lost: Mutex<Option<String>>,
    uncaptured: Mutex<Option<String>>,
}

/// Submissions that may still run, oldest first, with their serial numbers.
#[derive(Default)]
struct Flight {
    last: u64,
    pending: VecDeque<(u64, wgpu::SubmissionIndex)>,
}

/// The device of this process, once somebody asked for it or handed one in.
static SHARED: Mutex<Option<Result<Arc<Gpu>>>> = Mutex::new(None);

/// Locks, even after a panic: what our locks guard is whole at any time.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gpu {
    /// The device of this process, opened on first use with [`Options::from_env`]. A failure is
    /// remembered; a device that was lost is opened anew.
    ///
    /// # Errors
    /// `is_device`: there is no adapter, or none could be opened.
    pub fn shared() -> Result<Arc<Gpu>> {
        let mut shared = lock(&SHARED);
        match &*shared {
            Some(Ok(gpu)) if gpu.is_lost() => log::warn!("the GPU device was lost; opening it again"),
            Some(known) => return known.clone(),
            None => {}
        }
        shared.insert(Gpu::open(&Options::from_env())).clone()
    }

    /// The device of this process, if one was opened already.
    pub fn opened() -> Option<Arc<Gpu>> {
        lock(&SHARED).as_ref()?.as_ref().ok().cloned()
    }

    /// Makes this the device of the process, for an application that already has one.
    ///
    /// # Errors
    /// `is_input`: another device is in use already; arrays may live on it.
    pub fn install(self: &Arc<Self>) -> Result<()> {
        match &mut *lock(&SHARED) {
            Some(Ok(gpu)) if !gpu.is_lost() => Err(Error::input(format!(
                "a device is in use already ({}): hand yours in before",
                gpu.name()
            ))),
            shared => {
                *shared = Some(Ok(self.clone()));
                Ok(())
            }
        }
    }

    pub(super) fn new(caps: Caps, device: wgpu::Device, queue: wgpu::Queue, options: &Options) -> Arc<Gpu> {
        Arc::new(Gpu {
            info: device.adapter_info(),
            staging: Mutex::default(),
            caps,
            device,
            queue,
            checked: options.checked,
            timeout: options.timeout,
            health: Arc::default(),
            switched_off: Mutex::new(options.disable.clone()),
            counters: options.counters.clone().unwrap_or_else(|| counters().clone()),
            cache: Mutex::default(),
            staged_bytes: AtomicU64::new(0),
            staged_copies: AtomicU64::new(0),
            objects: AtomicU64::new(0),
            pipelines: Mutex::default(),
            kept: Kept::default(),
            readbacks: Mutex::default(),
            gate: RwLock::new(()),
            flight: Mutex::default(),
        })
    }

    /// Remembers loss and errors that wgpu reports outside of any call.
    pub(super) fn watch(&self) {
        let health = self.health.clone();
        self.device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| {
            lock(&health.uncaptured).get_or_insert_with(|| e.to_string());
        }));
        let health = self.health.clone();
        self.device.set_device_lost_callback(move |reason, message| {
            if reason != wgpu::DeviceLostReason::Destroyed {
                lock(&health.lost).get_or_insert(message);
            }
        });
    }

    /// What the device can do.
    pub fn caps(&self) -> &Caps {
        &self.caps
    }

    /// The adapter's name.
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// Whether the adapter is a program on the CPU.
    pub fn is_software(&self) -> bool {
        self.info.device_type == wgpu::DeviceType::Cpu
    }

    /// What wgpu knows of the adapter: kind, driver, backend.
    pub fn info(&self) -> &wgpu::AdapterInfo {
        &self.info
    }

    /// Where this device's memory is counted.
    #[cfg(test)]
    pub(crate) fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Notes that a path is not used, and why; see [`Gpu::switched_off`].
    pub fn switch_off(&self, what: impl Into<String>) {
        lock(&self.switched_off).push(what.into());
    }

    /// What is not used on this device: what the user disabled and what failed its check.
    pub fn switched_off(&self) -> Vec<String> {
        lock(&self.switched_off).clone()
    }

    /// Whether the device is gone; nothing will run on it any more.
    pub fn is_lost(&self) -> bool {
        lock(&self.health.lost).is_some()
    }

    /// Waits for one submission and those before it.
    ///
    /// # Errors
    /// As [`Gpu::wait`].
    pub fn wait_for(&self, ticket: Ticket) -> Result<()> {
        self.wait_until(ticket.0)
    }

    /// Waits until everything submitted so far is done.
    ///
    /// # Errors
    /// `is_device`: a submission took longer than [`Options::timeout`], or the device is lost.
    pub fn wait(&self) -> Result<()> {
        self.wait_until(u64::MAX)
    }

    /// Waits for all submissions up to a serial number.
    pub(super) fn wait_until(&self, serial: u64) -> Result<()> {
        loop {
            let oldest = lock(&self.flight).pending.front().filter(|(s, _)| *s <= serial).cloned();
            let Some((done, index)) = oldest else { return self.healthy() };
            self.poll(wgpu::PollType::Wait { submission_index: Some(index), timeout: Some(self.timeout) })?;
            let pending = &mut lock(&self.flight).pending;
            while pending.front().is_some_and(|(s, _)| *s <= done) {
                pending.pop_front();
            }
        }
    }

    pub(super) fn poll(&self, kind: wgpu::PollType) -> Result<()> {
        self.healthy()?;
        match catch_unwind(AssertUnwindSafe(|| self.device.poll(kind))) {
            Ok(Ok(_)) => self.healthy(),
            Ok(Err(wgpu::PollError::Timeout)) => {
                let name = self.name();
                Err(Error::device(format!("{name} did not finish its work within {:?}", self.timeout)))
            }
            Ok(Err(e)) => Err(Error::device(e)),
            Err(panic) => Err(self.lose(&*panic)),
        }
    }

    /// Submits what `record` records; returns the serial number to wait for. `used` runs before any other
    /// thread can map a buffer, with that number.
    pub(super) fn submit(
        &self,
        what: &str,
        record: impl FnOnce(&mut wgpu::CommandEncoder),
        used: impl FnOnce(u64),
    ) -> Result<u64> {
        self.submit_then(what, record, &|| {}, used)
    }

    /// [`Gpu::submit`] with calls into wgpu to make after it. Errors of all calls are caught at once: this is
    /// run for every token.
    pub(super) fn submit_then(
        &self,
        what: &str,
        record: impl FnOnce(&mut wgpu::CommandEncoder),
        then: &dyn Fn(),
        used: impl FnOnce(u64),
    ) -> Result<u64> {
        let (index, alone) = self.guarded(what, || {
            let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            record(&mut encoder);
            let commands = encoder.finish();
            let alone = self.gate.write().unwrap_or_else(PoisonError::into_inner);
            // Commands that could not be recorded are refused here, after the error that says why.
            let index = self.queue.submit([commands]);
            then();
            (index, alone)
        })?;
        let (serial, full) = {
            let flight = &mut *lock(&self.flight);
            flight.last += 1;
            flight.pending.push_back((flight.last, index));
            (flight.last, flight.pending.len() > MAX_IN_FLIGHT)
        };
        used(serial);
        drop(alone);
        if full {
            self.wait_until(serial - MAX_IN_FLIGHT as u64)?;
        }
        Ok(serial)
    }

    /// Runs calls into wgpu and returns what they report as an error that begins with `what`.
    pub(super) fn guarded<T>(&self, what: &str, calls: impl FnOnce() -> T) -> Result<T> {
        self.healthy()?;
        let filters =
            [wgpu::ErrorFilter::OutOfMemory, wgpu::ErrorFilter::Validation, wgpu::ErrorFilter::Internal];
        let scopes = filters.map(|filter| self.device.push_error_scope(filter));
        let outcome = catch_unwind(AssertUnwindSafe(calls));
        let [memory, validation, internal] = scopes;
        // Scopes close in reverse order. Lack of memory comes first: the others may follow from it.
        let (internal, validation, memory) = (popped(internal), popped(validation), popped(memory));
        let value = outcome.map_err(|panic| self.lose(&*panic)).with_context(|| what.to_string())?;
        match memory.or(internal).or(validation) {
            Some(wgpu::Error::OutOfMemory { .. }) => {
                Err(Error::memory(format!("{} is out of memory", self.name())).context(what))
            }
            Some(e) => Err(Error::device(e.to_string().trim_end()).context(what)),
            // Loss is not delivered to scopes.
            None => self.healthy().map(|()| value).with_context(|| what.to_string()),
        }
    }

    fn healthy(&self) -> Result<()> {
        if let Some(why) = &*lock(&self.health.lost) {
            return Err(Error::device(format!("the GPU device {} was lost: {why}", self.name())));
        }
        match lock(&self.health.uncaptured).take() {
            Some(e) => Err(Error::device(e)),
            None => Ok(()),
        }
    }

    fn lose(&self, panic: &(dyn std::any::Any + Send)) -> Error {
        let why = panic_text(panic);
        lock(&self.health.lost).get_or_insert_with(|| why.clone());
        Error::device(format!("the GPU device {} was lost: {why}", self.name()))
    }
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gpu({})", self.name())
    }
}

/// What an error scope caught. Natively the answer is there at once.
fn popped(scope: wgpu::ErrorScopeGuard) -> Option<wgpu::Error> {
    pollster::block_on(scope.pop())
}

pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string()))
        .unwrap_or_else(|| "the driver gave up".into())
}
