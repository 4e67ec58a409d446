//! Opening a device: which adapter, with what, and in which of two ways.
//!
//! On Vulkan a device of our own is opened without robust buffer access (see `vulkan`) and tried with one
//! small kernel before it is used; whatever goes wrong there ends in an ordinary device.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::device::panic_text;
use super::disk::default_folder;
#[cfg(any(windows, target_os = "linux", target_os = "android", target_os = "freebsd"))]
use super::vulkan;
use crate::error::{Context, Error, Result};
use crate::gpu::{Bind, Caps, Counters, Dispatch, Gpu, Recording, Step, Tier};
use crate::wgsl::{File, link, wgsl};

/// The word for [`Caps::fast_device`] in [`Options::disable`].
const FAST_DEVICE: &str = "fast-device";

/// Where wgpu has no Vulkan, no adapter is a Vulkan one.
#[cfg(not(any(windows, target_os = "linux", target_os = "android", target_os = "freebsd")))]
mod vulkan {
    use crate::error::{Error, Result};

    pub(super) fn open(
        _: &wgpu::Adapter,
        _: &wgpu::DeviceDescriptor<'_>,
    ) -> Result<(wgpu::Device, wgpu::Queue)> {
        Err(Error::unsupported("not a Vulkan adapter"))
    }
}

/// How to open a device.
#[derive(Clone, Debug)]
pub struct Options {
    /// Take the adapter whose name contains this (in any case); else the most capable one.
    pub adapter: Option<String>,
    /// What to leave unused: names of [`Tier`]s, `coop`, `timestamps`, `unified`, `fast-device` (see
    /// [`Caps::fast_device`]); `baseline` stands for all of these and for WebGPU's default limits.
    pub disable: Vec<String>,
    /// Keep bounds checks, in kernels and in the driver, and use validation layers where installed.
    pub checked: bool,
    /// How long one submission may take.
    pub timeout: Duration,
    /// The folder in which compiled kernels are kept for the next process; `None` keeps none.
    pub pipeline_cache: Option<PathBuf>,
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
            pipeline_cache: None,
            counters: None,
            backends: wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12,
        }
    }
}

impl Options {
    /// The defaults, changed by `UNIMLX_ADAPTER`, `UNIMLX_DISABLE` (separated by commas) and
    /// `UNIMLX_CHECKED=1`. Compiled kernels are kept in the user's cache folder, or in `UNIMLX_CACHE`; if
    /// that is set and empty, they are not.
    pub fn from_env() -> Self {
        let var = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let disable = var("UNIMLX_DISABLE").unwrap_or_default();
        Options {
            adapter: var("UNIMLX_ADAPTER"),
            disable: disable.split(',').map(str::trim).filter(|w| !w.is_empty()).map(Into::into).collect(),
            checked: var("UNIMLX_CHECKED").is_some_and(|value| value != "0"),
            pipeline_cache: default_folder(),
            ..Options::default()
        }
    }

    fn disables(&self, word: &str) -> bool {
        let coop = word.starts_with("coop") || word == "fragments";
        self.disable.iter().any(|w| w == word || w == "baseline" || (coop && w == "coop"))
    }
}

/// What a device opened in the fast way must pass.
type Trial<'a> = &'a dyn Fn(&Arc<Gpu>) -> Result<()>;

impl Gpu {
    /// Opens the best adapter: discrete before integrated before virtual before software.
    ///
    /// # Errors
    /// `is_device`: there is no adapter, or none could be opened.
    pub fn open(options: &Options) -> Result<Arc<Gpu>> {
        Gpu::open_tried(options, &Gpu::canary)
    }

    /// [`Gpu::open`] with another trial of a device opened in the fast way.
    pub(super) fn open_tried(options: &Options, trial: Trial<'_>) -> Result<Arc<Gpu>> {
        let mut adapters = caught(|| {
            let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
            descriptor.backends = options.backends;
            // The default adds a validation dispatch to each indirect one.
            descriptor.flags = match options.checked {
                true => wgpu::InstanceFlags::DEBUG | wgpu::InstanceFlags::VALIDATION,
                false => wgpu::InstanceFlags::empty(),
            };
            pollster::block_on(wgpu::Instance::new(descriptor).enumerate_adapters(options.backends))
        })
        .context("looking for a GPU")?;
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
            let open = |options: &Options| Gpu::open_adapter(&adapter, options, trial);
            let opened = open(options).and_then(|gpu| gpu.with_right_fragments(options, open));
            match opened.with_context(|| format!("opening {name}")) {
                Ok(gpu) => return Ok(gpu),
                Err(e) => {
                    log::warn!("{e}");
                    failure.get_or_insert(e);
                }
            }
        }
        Err(failure.unwrap_or_else(|| Error::device("no GPU adapter")))
    }

    fn open_adapter(adapter: &wgpu::Adapter, options: &Options, trial: Trial<'_>) -> Result<Arc<Gpu>> {
        use wgpu::Features;
        let mut features = Features::PIPELINE_CACHE;
        let wishes = [
            ("unified", Features::MAPPABLE_PRIMARY_BUFFERS),
            ("subgroups", Features::SUBGROUP | Features::SUBGROUP_BARRIER),
            ("f16", Features::SHADER_F16),
            ("timestamps", Features::TIMESTAMP_QUERY | Features::TIMESTAMP_QUERY_INSIDE_PASSES),
            ("coop", Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
            ("fragments", Features::PASSTHROUGH_SHADERS),
        ];
        for (word, wish) in wishes {
            if !options.disables(word) {
                features |= wish;
            }
        }
        features &= adapter.features();
        let mut memory_hints = wgpu::MemoryHints::MemoryUsage;
        if adapter.get_info().device_type == wgpu::DeviceType::DiscreteGpu {
            features = features.difference(Features::MAPPABLE_PRIMARY_BUFFERS);
            // Blocks of 128 to 256 MiB, which many buffers share: with keys and values of 16384 tokens in memory of their
            // own each, a step of a model of 8B takes 2.4% longer on an NVIDIA H200.
            memory_hints = wgpu::MemoryHints::Performance;
        }
        let required_limits = match options.disable.iter().any(|word| word == "baseline") {
            true => wgpu::Limits::default(),
            false => adapter.limits(),
        };
        let descriptor = |features: Features| wgpu::DeviceDescriptor {
            label: Some("unimlx"),
            required_features: features,
            required_limits: required_limits.clone(),
            experimental_features: match features.intersects(Features::all_experimental_mask()) {
                // SAFETY: the only experimental feature asked for is cooperative matrices; just
                // kernels written for them use it, and those are checked before first use.
                true => unsafe { wgpu::ExperimentalFeatures::enabled() },
                false => wgpu::ExperimentalFeatures::disabled(),
            },
            memory_hints: memory_hints.clone(),
            trace: wgpu::Trace::Off,
        };
        let vulkan = adapter.get_info().backend == wgpu::Backend::Vulkan;
        if vulkan && !options.checked && !options.disables(FAST_DEVICE) {
            let fast = || {
                let open = || vulkan::open(adapter, &descriptor(features));
                let (device, queue) = caught(open)??;
                let gpu = Gpu::with_callbacks(adapter, device, queue, options, true);
                trial(&gpu).context("trying it")?;
                gpu.clear_cache();
                Ok::<_, Error>(gpu)
            };
            match fast() {
                Ok(gpu) => return Ok(gpu),
                Err(e) => log::warn!("{}: opening it the ordinary way: {e}", adapter.get_info().name),
            }
        }
        let request = |features: Features| {
            caught(|| pollster::block_on(adapter.request_device(&descriptor(features))))?
                .map_err(Error::device)
        };
        let (device, queue) = request(features).or_else(|e| {
            let fewer = features.difference(Features::all_experimental_mask());
            if fewer == features { Err(e) } else { request(fewer) }
        })?;
        Ok(Gpu::with_callbacks(adapter, device, queue, options, false))
    }

    /// This device, or if its products of fragments are wrong the one that `open` gives without them.
    fn with_right_fragments(
        self: Arc<Self>,
        options: &Options,
        open: impl Fn(&Options) -> Result<Arc<Gpu>>,
    ) -> Result<Arc<Gpu>> {
        let tried = if self.caps().fragments { self.try_fragments() } else { Ok(()) };
        let Err(e) = tried else { return Ok(self) };
        log::warn!("{}: opening it without `fragments`: {e}", self.name());
        let mut fewer = options.clone();
        fewer.disable.push("fragments".to_owned());
        open(&fewer)
    }

    /// A device of our own: it remembers what goes wrong.
    fn with_callbacks(
        adapter: &wgpu::Adapter,
        device: wgpu::Device,
        queue: wgpu::Queue,
        options: &Options,
        fast: bool,
    ) -> Arc<Gpu> {
        let gpu = Gpu::new(Gpu::caps_of(adapter, &device, options, fast), device, queue, options);
        gpu.watch();
        if let Some(folder) = &options.pipeline_cache {
            gpu.keep_pipelines(folder);
        }
        let (way, tiers) = (if fast { "fast" } else { "ordinary" }, gpu.caps().tiers());
        log::debug!("opened {} ({}), {way} device, tiers {tiers:?}", gpu.name(), gpu.info().backend);
        gpu
    }

    /// Works on a device that an application opened, with whatever features and limits it has. The
    /// application keeps its own error and loss callbacks.
    ///
    /// # Errors
    /// `is_device`: the device is already lost.
    pub fn from_wgpu(adapter: &wgpu::Adapter, device: wgpu::Device, queue: wgpu::Queue) -> Result<Arc<Gpu>> {
        let options = Options::from_env();
        let open = |options: &Options| {
            let caps = Gpu::caps_of(adapter, &device, options, false);
            let gpu = Gpu::new(caps, device.clone(), queue.clone(), options);
            gpu.poll(wgpu::PollType::Poll).map(|()| gpu)
        };
        let gpu = open(&options)?.with_right_fragments(&options, open)?;
        if let Some(folder) = &options.pipeline_cache {
            gpu.keep_pipelines(folder);
        }
        Ok(gpu)
    }

    fn caps_of(adapter: &wgpu::Adapter, device: &wgpu::Device, options: &Options, fast: bool) -> Caps {
        let mut caps = Caps::of(device, &adapter.cooperative_matrix_properties());
        caps.fast_device = fast;
        caps.f16 &= !options.disables("f16");
        caps.dot4 &= !options.disables("dot4");
        caps.coop8 &= !options.disables("coop8");
        caps.coop16 &= !options.disables("coop16");
        caps.fragments &= !options.disables("fragments") && !options.checked;
        caps.unified &= !options.disables("unified");
        caps.timestamps &= !options.disables("timestamps");
        caps.subgroups = caps.subgroups.filter(|_| !options.disables("subgroups"));
        let known = |word: &str| {
            ["unified", "timestamps", "coop", FAST_DEVICE].contains(&word)
                || Tier::ALL.iter().any(|t| t.name() == word)
        };
        for word in options.disable.iter().filter(|word| !known(word)) {
            log::warn!("UNIMLX_DISABLE: there is no \"{word}\" to switch off");
        }
        caps
    }

    /// Runs a small kernel, and compares.
    fn canary(self: &Arc<Self>) -> Result<()> {
        const N: u32 = 64;
        const STEP: u32 = 7;
        static CANARY: File = wgsl!("canary.wgsl");
        let bytes = u64::from(N) * 4;
        let offset = u64::from(self.caps().offset_alignment).next_multiple_of(16);
        let dispatch = Dispatch {
            name: "canary".into(),
            source: link(&[&CANARY], ""),
            constants: vec![("WG", f64::from(N))],
            binds: vec![
                Bind { slot: 0, offset, bytes, write: false },
                Bind { slot: 1, offset, bytes, write: true },
            ],
            params: vec![N, STEP],
            grid: [1, 1, 1],
        };
        let x: Vec<u32> = (0..N).map(|i| i.wrapping_mul(0x9e37_79b9) ^ 0x5bd1_e995).collect();
        let sum = |i: u32| {
            let term = |j: u32| (j + 1).wrapping_mul(x[((i + j * STEP) % N) as usize]);
            (0..N).fold(0, |sum: u32, j| sum.wrapping_add(term(j)))
        };
        let size = offset + bytes;
        let buffers = [self.alloc(size)?, self.alloc(size)?];
        self.write(&buffers[0], offset, bytemuck::cast_slice(&x))?;
        let recording = Recording { buffers: vec![size; 2], steps: vec![Step::Dispatch(dispatch)] };
        self.run(&self.prepare(&recording, &buffers)?)?;
        let mut y = vec![0u32; N as usize];
        self.read(&buffers[1], offset, bytemuck::cast_slice_mut(&mut y))?;
        match (0..N).find(|&i| y[i as usize] != sum(i)) {
            None => Ok(()),
            Some(i) => Err(Error::device(format!("a kernel computed {} for {}", y[i as usize], sum(i)))),
        }
    }
}

/// What wgpu panics about, as an error.
fn caught<T>(calls: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(calls)).map_err(|panic| Error::device(panic_text(&*panic)))
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

/// For tests: the device, or `None` if it could not be opened and the test is to be skipped.
///
/// # Panics
/// If it could not be opened and `UNIMLX_REQUIRE_GPU=1` says that there is one: then no test may pass idly.
pub fn or_skip(opened: Result<Arc<Gpu>>) -> Option<Arc<Gpu>> {
    match opened {
        Ok(gpu) => Some(gpu),
        Err(e) if std::env::var("UNIMLX_REQUIRE_GPU").is_ok_and(|v| v == "1") => {
            panic!("UNIMLX_REQUIRE_GPU=1, but there is no GPU: {e}")
        }
        Err(e) => {
            log::warn!("skipped: {e}");
            None
        }
    }
}
