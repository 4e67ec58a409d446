//! Opening a device, and living with one that fails.
//!
//! Every call into wgpu that may fail runs inside [`Gpu::guarded`]: error scopes catch what wgpu
//! reports, `catch_unwind` what it panics about (polling a lost device does), and a lost device is
//! remembered so that the next call says so at once. Submissions get serial numbers; a wait goes
//! through them one by one, each within [`Options::timeout`], so slow is not mistaken for stuck.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use crate::error::{Context, Error, Result};
use crate::gpu::{Caps, Counters, Tier, counters};

use super::memory::Cache;
use super::pipeline::{Key, Pipeline};
use super::transfer::Staging;

/// Submissions in flight before `submit` waits for the oldest.
const MAX_IN_FLIGHT: usize = 256;

/// How to open a device.
#[derive(Clone, Debug)]
pub struct Options {
    /// Take the adapter whose name contains this (in any case); else the most capable one.
    pub adapter: Option<String>,
    /// What to leave unused: names of [`Tier`]s, `coop`, `timestamps`, `unified`; `baseline` stands for
    /// all of these and for WebGPU's default limits.
    pub disable: Vec<String>,
    /// Keep bounds checks in kernels, and use the driver's validation layers where installed.
    pub checked: bool,
    /// How long one submission may take.
    pub timeout: Duration,
    /// Where memory is counted, if not in the process-wide [`counters`].
    pub(crate) counters: Option<Arc<Counters>>,
    /// Which of the system's graphics interfaces to try.
    pub backends: wgpu::Backends,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            adapter: None,
            disable: Vec::new(),
            checked: false,
            timeout: Duration::from_secs(60),
            counters: None,
            backends: wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12,
        }
    }
}

impl Options {
    /// The defaults, changed by `UNIMLX_ADAPTER`, `UNIMLX_DISABLE` (separated by commas) and
    /// `UNIMLX_CHECKED=1`.
    pub fn from_env() -> Self {
        let var = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let disable = var("UNIMLX_DISABLE").unwrap_or_default();
        Options {
            adapter: var("UNIMLX_ADAPTER"),
            disable: disable.split(',').map(str::trim).filter(|w| !w.is_empty()).map(Into::into).collect(),
            checked: var("UNIMLX_CHECKED").is_some_and(|value| value != "0"),
            ..Options::default()
        }
    }

    fn disables(&self, word: &str) -> bool {
        let coop = word.starts_with("coop");
        self.disable.iter().any(|w| w == word || w == "baseline" || (coop && w == "coop"))
    }
}

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
    pub(super) pipelines: Mutex<HashMap<Key, Arc<Pipeline>>>,
    /// Held shared while a tensor buffer is mapped and alone by a submission: wgpu refuses to submit
    /// work on a mapped buffer, and one thread may well read what another computes with.
    pub(super) gate: RwLock<()>,
    flight: Mutex<Flight>,
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

/// A panic while a lock was held leaves data that is still whole here: go on with it.
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

    /// Opens the best adapter: discrete before integrated before virtual before software.
    ///
    /// # Errors
    /// `is_device`: there is no adapter, or none could be opened.
    pub fn open(options: &Options) -> Result<Arc<Gpu>> {
        let mut adapters = catch_unwind(|| {
            let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
            descriptor.backends = options.backends;
            // The default adds a validation dispatch to each indirect one.
            descriptor.flags = match options.checked {
                true => wgpu::InstanceFlags::DEBUG | wgpu::InstanceFlags::VALIDATION,
                false => wgpu::InstanceFlags::empty(),
            };
            pollster::block_on(wgpu::Instance::new(descriptor).enumerate_adapters(options.backends))
        })
        .map_err(|panic| Error::device(format!("looking for a GPU: {}", panic_text(&*panic))))?;
        if adapters.is_empty() {
            return Err(Error::device("no GPU adapter: no Vulkan, Metal or DirectX 12 driver was found"));
        }
        if let Some(wanted) = &options.adapter {
            let names: Vec<String> = adapters.iter().map(|a| a.get_info().name).collect();
            adapters.retain(|a| a.get_info().name.to_lowercase().contains(&wanted.to_lowercase()));
            if adapters.is_empty() {
                let names = names.join(", ");
                return Err(Error::device(format!(
                    "no GPU adapter is called \"{wanted}\"; there are: {names}"
                )));
            }
        }
        adapters.sort_by_key(|adapter| rank(&adapter.get_info()));
        let mut failure = None;
        for adapter in adapters {
            let name = adapter.get_info().name;
            match Gpu::open_adapter(&adapter, options).with_context(|| format!("opening {name}")) {
                Ok(gpu) => return Ok(gpu),
                Err(e) => {
                    log::warn!("{e}");
                    failure.get_or_insert(e);
                }
            }
        }
        Err(failure.unwrap_or_else(|| Error::device("no GPU adapter")))
    }

    fn open_adapter(adapter: &wgpu::Adapter, options: &Options) -> Result<Arc<Gpu>> {
        use wgpu::Features;
        let mut features = Features::PIPELINE_CACHE;
        let wishes = [
            ("unified", Features::MAPPABLE_PRIMARY_BUFFERS),
            ("subgroups", Features::SUBGROUP | Features::SUBGROUP_BARRIER),
            ("f16", Features::SHADER_F16),
            ("timestamps", Features::TIMESTAMP_QUERY | Features::TIMESTAMP_QUERY_INSIDE_PASSES),
            ("coop", Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
        ];
        for (word, wish) in wishes {
            if !options.disables(word) {
                features |= wish;
            }
        }
        features &= adapter.features();
        if adapter.get_info().device_type == wgpu::DeviceType::DiscreteGpu {
            features = features.difference(Features::MAPPABLE_PRIMARY_BUFFERS);
        }
        let required_limits = match options.disable.iter().any(|word| word == "baseline") {
            true => wgpu::Limits::default(),
            false => adapter.limits(),
        };
        let request = |features: Features| {
            let descriptor = wgpu::DeviceDescriptor {
                label: Some("unimlx"),
                required_features: features,
                required_limits: required_limits.clone(),
                experimental_features: match features.intersects(Features::all_experimental_mask()) {
                    // SAFETY: the only experimental feature asked for is cooperative matrices; just
                    // kernels written for them use it, and those are checked before first use.
                    true => unsafe { wgpu::ExperimentalFeatures::enabled() },
                    false => wgpu::ExperimentalFeatures::disabled(),
                },
                memory_hints: wgpu::MemoryHints::MemoryUsage,
                trace: wgpu::Trace::Off,
            };
            catch_unwind(AssertUnwindSafe(|| pollster::block_on(adapter.request_device(&descriptor))))
                .map_err(|panic| Error::device(panic_text(&*panic)))?
                .map_err(Error::device)
        };
        let (device, queue) = request(features).or_else(|e| {
            let fewer = features.difference(Features::all_experimental_mask());
            if fewer == features { Err(e) } else { request(fewer) }
        })?;
        let gpu = Gpu::new(adapter, device, queue, options);
        let health = gpu.health.clone();
        gpu.device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| {
            lock(&health.uncaptured).get_or_insert_with(|| e.to_string());
        }));
        let health = gpu.health.clone();
        gpu.device.set_device_lost_callback(move |reason, message| {
            if reason != wgpu::DeviceLostReason::Destroyed {
                lock(&health.lost).get_or_insert(message);
            }
        });
        log::debug!("opened {} ({}), tiers {:?}", gpu.name(), gpu.info.backend, gpu.caps.tiers());
        Ok(gpu)
    }

    /// Works on a device that an application opened, with whatever features and limits it has. The
    /// application keeps its own error and loss callbacks.
    ///
    /// # Errors
    /// `is_device`: the device is already lost.
    pub fn from_wgpu(adapter: &wgpu::Adapter, device: wgpu::Device, queue: wgpu::Queue) -> Result<Arc<Gpu>> {
        let gpu = Gpu::new(adapter, device, queue, &Options::from_env());
        gpu.poll(wgpu::PollType::Poll)?;
        Ok(gpu)
    }

    fn new(adapter: &wgpu::Adapter, device: wgpu::Device, queue: wgpu::Queue, options: &Options) -> Arc<Gpu> {
        let mut caps = Caps::of(&device, &adapter.cooperative_matrix_properties());
        caps.f16 &= !options.disables("f16");
        caps.dot4 &= !options.disables("dot4");
        caps.coop8 &= !options.disables("coop8");
        caps.coop16 &= !options.disables("coop16");
        caps.unified &= !options.disables("unified");
        caps.timestamps &= !options.disables("timestamps");
        caps.subgroups = caps.subgroups.filter(|_| !options.disables("subgroups"));
        let known = |word: &str| {
            ["unified", "timestamps", "coop"].contains(&word) || Tier::ALL.iter().any(|t| t.name() == word)
        };
        for word in options.disable.iter().filter(|word| !known(word)) {
            log::warn!("UNIMLX_DISABLE: there is no \"{word}\" to switch off");
        }
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
            pipelines: Mutex::default(),
            gate: RwLock::new(()),
            flight: Mutex::default(),
        })
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

    /// Submits recorded commands; returns the serial number to wait for. `used` runs before any other
    /// thread can map a buffer, with that number.
    pub(super) fn submit(
        &self,
        what: &str,
        encoder: wgpu::CommandEncoder,
        used: impl FnOnce(u64),
    ) -> Result<u64> {
        let commands = self.guarded(what, || encoder.finish())?;
        let alone = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        let index = self.guarded(what, || self.queue.submit([commands]))?;
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
        // Scopes close in reverse order.
        let errors: Vec<_> = scopes.into_iter().rev().filter_map(|s| pollster::block_on(s.pop())).collect();
        let value = outcome.map_err(|panic| self.lose(&*panic)).with_context(|| what.to_string())?;
        match errors.into_iter().next() {
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

/// Smaller is better. The same card may be listed by two backends.
fn rank(info: &wgpu::AdapterInfo) -> (u8, u8) {
    let kind = match info.device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    };
    let backend = match info.backend {
        wgpu::Backend::Metal => 0,
        wgpu::Backend::Vulkan => 1,
        _ => 2,
    };
    (kind, backend)
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string()))
        .unwrap_or_else(|| "the driver gave up".into())
}
