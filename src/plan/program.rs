//! A plan bound to its buffers, replayed as often as wanted.
//!
//! Plans are kept by the structure of their graph, so evaluating the same formula again costs a lookup.
//! A [`Program`] reads what its leaves hold when it runs: token ids and positions are overwritten between
//! runs, caches grow in place, and nothing is allocated, planned or compiled on the way.

use super::check::{all_trusted, trial_time};
use super::fuse::rewrite;
use super::graph::{Graph, Target};
use super::slots::{Operand, Slot};
use super::{gpu, host};
use crate::array::{Device, MLXArray};
use crate::error::{Error, Result};
use crate::gpu::{Caps, Gpu, Pending, Prepared, Recording, Spent};
use crate::memory::{Buffer, View};
use crate::op::{HostMut, HostRef, Spec};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

/// Structure only: steps over slots.
pub(super) struct Plan {
    body: Body,
    slots: Vec<Slot>,
    outputs: Vec<Operand>,
}

enum Body {
    Cpu(Vec<host::HostStep>),
    Gpu(Recording),
}

/// Time spent on plans, trials of their kernels included.
pub(super) static PLANNING: Spent = Spent::new();

/// Where the time for plans went in this process.
#[derive(Clone, Copy)]
pub(crate) struct PlanningTime {
    /// All of it.
    pub(crate) all: Duration,
    /// Trials of kernels.
    pub(crate) trials: Duration,
    /// Pipelines for these.
    pub(crate) trial_pipelines: Duration,
}

/// Time spent on plans so far.
pub(crate) fn planning_time() -> PlanningTime {
    let (trials, trial_pipelines) = trial_time();
    PlanningTime { all: PLANNING.so_far(), trials, trial_pipelines }
}

static FUSE: AtomicBool = AtomicBool::new(true);

/// Switches fusion: whether several ops become one kernel where one can do their work on the GPU, and linear layers
/// of one input one matrix. It is on at first. Plans made and models loaded from now on heed it; results are the same
/// up to rounding.
pub fn set_fusion(on: bool) {
    FUSE.store(on, Ordering::Relaxed);
}

/// Whether plans made now are fused.
pub(crate) fn fuses() -> bool {
    FUSE.load(Ordering::Relaxed)
}

/// Drops every plan that is kept: kernels would be chosen otherwise now.
pub(super) fn forget() {
    cache().lock().unwrap_or_else(PoisonError::into_inner).clear();
}

/// Plans that are kept; when there are more, all are dropped and made again as needed.
const KEPT_PLANS: usize = 512;

fn cache() -> &'static Mutex<HashMap<String, Arc<Plan>>> {
    static PLANS: LazyLock<Mutex<HashMap<String, Arc<Plan>>>> = LazyLock::new(Mutex::default);
    &PLANS
}

/// The plan for these outputs, and the arrays that its leaves stand for.
pub(super) fn plan(outputs: &[MLXArray], device: Device, fuse: bool) -> Result<(Arc<Plan>, Vec<MLXArray>)> {
    let gpu = if device == Device::GPU { Some(Gpu::shared()?) } else { None };
    let caps = gpu.as_ref().map(|g| g.caps());
    let lock = || cache().lock().unwrap_or_else(PoisonError::into_inner);
    let (graph, key, leaves) = loop {
        let target = &Target::new(caps, gpu.as_ref());
        let mut graph = Graph::of(outputs, target);
        let leaves = graph.leaves.clone();
        let key = graph.key(device, fuse);
        if let Some(plan) = lock().get(&key) {
            return Ok((plan.clone(), leaves));
        }
        if fuse {
            rewrite(&mut graph, target);
        }
        // Again without the kernels that were refused just now.
        if gpu.as_ref().is_none_or(|gpu| all_trusted(&graph, gpu)) {
            break (graph, key, leaves);
        }
    };
    let plan = match caps {
        None => {
            let l = host::lower(graph);
            Plan { body: Body::Cpu(l.steps), slots: l.slots, outputs: l.outputs }
        }
        Some(caps) => {
            let l = gpu::lower(&graph, caps, fuse)?;
            Plan { body: Body::Gpu(l.recording), slots: l.slots, outputs: l.outputs }
        }
    };
    let plan = Arc::new(plan);
    let mut plans = lock();
    if plans.len() >= KEPT_PLANS {
        plans.clear();
    }
    plans.insert(key, plan.clone());
    Ok((plan, leaves))
}

/// The GPU work that computes some arrays, a line per dispatch, planned for an adapter that need not be there.
///
/// # Errors
/// A value too large for the adapter.
pub(crate) fn recording_for(outputs: &[MLXArray], caps: &Caps, fuse: bool) -> Result<String> {
    let target = &Target::new(Some(caps), None);
    let mut graph = Graph::of(outputs, target);
    if fuse {
        rewrite(&mut graph, target);
    }
    Ok(gpu::lower(&graph, caps, fuse)?.recording.to_string())
}

/// A planned graph with its buffers.
pub(crate) struct Program {
    plan: Arc<Plan>,
    buffers: Vec<Buffer>,
    prepared: Option<(Arc<Gpu>, Prepared)>,
}

impl Program {
    /// Plans `outputs` (all on one device) and binds buffers.
    ///
    /// # Errors
    /// No adapter, memory exhausted, a value too large for the adapter, a kernel the driver refuses.
    pub(crate) fn new(outputs: &[MLXArray]) -> Result<Self> {
        Self::with_fusion(outputs, fuses())
    }

    /// The same, fused or not whatever [`set_fusion`] said.
    ///
    /// # Errors
    /// As [`Program::new`].
    pub(super) fn with_fusion(outputs: &[MLXArray], fuse: bool) -> Result<Self> {
        let gpu = outputs.iter().any(|x| x.device() == Device::GPU);
        let device = if gpu { Device::GPU } else { Device::CPU };
        let (plan, leaves) = PLANNING.on(|| plan(outputs, device, fuse))?;
        let mut buffers = Vec::with_capacity(plan.slots.len());
        for slot in &plan.slots {
            buffers.push(match *slot {
                Slot::Leaf(i) => leaf(&leaves[i], device)?,
                Slot::Temp { bytes } | Slot::Output { bytes } => Buffer::unfilled(bytes, device)?,
            });
        }
        let prepared = match &plan.body {
            Body::Cpu(_) => None,
            Body::Gpu(recording) => {
                let raw: Vec<crate::gpu::Buffer> = buffers
                    .iter()
                    .map(|b| match b {
                        Buffer::Gpu(b) => Ok(b.clone()),
                        Buffer::Host(_) | Buffer::Mapped(..) => {
                            Err(Error::device("a CPU buffer in a GPU plan"))
                        }
                    })
                    .collect::<Result<_>>()?;
                let gpu = Gpu::shared()?;
                let prepared = gpu.prepare(recording, &raw)?;
                Some((gpu, prepared))
            }
        };
        Ok(Self { plan, buffers, prepared })
    }

    /// Submits the work of a GPU in so many parts from now on.
    pub(crate) fn cut(&mut self, parts: usize) {
        self.prepared = self.prepared.take().map(|(gpu, prepared)| {
            let count = prepared.dispatches().div_ceil(parts.max(1));
            (gpu, prepared.with_max_dispatches(count))
        });
    }

    /// Runs every step. On the GPU the work is submitted; reading an output waits for it.
    ///
    /// # Errors
    /// The device failed.
    pub(crate) fn run(&mut self) -> Result<()> {
        match (&self.plan.body, &self.prepared) {
            (Body::Gpu(_), Some((gpu, prepared))) => gpu.run(prepared),
            (Body::Cpu(steps), _) => {
                steps.iter().for_each(|step| self.host_step(step));
                Ok(())
            }
            (Body::Gpu(_), None) => Err(Error::device("the program was never prepared")),
        }
    }

    /// [`Program::run`] on the GPU, and the whole of an output on its way back, without waiting for either.
    ///
    /// # Errors
    /// As [`Program::run`]; the program runs on the CPU.
    pub(crate) fn run_and_read(&mut self, i: usize) -> Result<Pending> {
        let output = &self.plan.outputs[i];
        match (&self.prepared, &self.buffers[output.slot]) {
            (Some((gpu, prepared)), Buffer::Gpu(buffer)) => {
                gpu.run_and_read(prepared, buffer, output.offset as u64, output.spec.bytes() as u64)
            }
            _ => Err(Error::device("a program on the CPU has no result that comes later")),
        }
    }

    fn host_step(&self, step: &host::HostStep) {
        let mut views: [Option<View<'_>>; MAX_INPUTS] = Default::default();
        for (view, operand) in views.iter_mut().zip(&step.inputs) {
            *view = Some(View::of(&self.buffers[operand.slot]));
        }
        let empty = HostRef { bytes: &[], spec: &step.output.spec };
        let mut inputs = [empty; MAX_INPUTS];
        for ((input, view), operand) in inputs.iter_mut().zip(&views).zip(&step.inputs) {
            if let Some(view) = view {
                *input = HostRef { bytes: range(view.bytes(), operand), spec: &operand.spec };
            }
        }
        let Buffer::Host(target) = &self.buffers[step.output.slot] else { return };
        let mut words = target.write();
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
        let end = step.output.offset + step.output.spec.bytes();
        let out = HostMut { bytes: &mut bytes[step.output.offset..end], spec: &step.output.spec };
        (step.kernel)(&inputs[..step.inputs.len()], out);
    }

    /// The buffer of an output.
    pub(crate) fn output(&self, i: usize) -> Buffer {
        self.buffers[self.plan.outputs[i].slot].clone()
    }

    /// Copies the first bytes of an output out, waiting for the run that computes it.
    ///
    /// # Errors
    /// The device failed.
    pub(crate) fn read(&self, i: usize, bytes: &mut [u8]) -> Result<()> {
        self.output(i).read(bytes)
    }

    /// The GPU work of one run as text, one line per step; empty for the CPU.
    pub(crate) fn recording(&self) -> String {
        match &self.plan.body {
            Body::Gpu(recording) => recording.to_string(),
            Body::Cpu(_) => String::new(),
        }
    }
}

/// Operands of a CPU kernel at most; an op that has more is planned by its meaning.
pub(super) const MAX_INPUTS: usize = 8;

fn range<'a>(bytes: &'a [u8], operand: &Operand) -> &'a [u8] {
    &bytes[operand.offset..operand.offset + operand.spec.bytes()]
}

/// The buffer of an existing array on the device where it is needed.
fn leaf(array: &MLXArray, device: Device) -> Result<Buffer> {
    let spec: &Spec = array.spec();
    let buffer = array.buffer().ok_or_else(|| Error::input(format!("{spec} is not evaluated")))?;
    if buffer.device() == device {
        return Ok(buffer);
    }
    buffer.moved(spec.bytes(), device)
}

/// Evaluates several arrays together, sharing what they have in common.
///
/// # Errors
/// No adapter, memory exhausted, or the device failed; then no array has changed.
pub fn eval(arrays: &[&MLXArray]) -> Result<()> {
    let lazy: Vec<MLXArray> = arrays.iter().filter(|x| x.buffer().is_none()).map(|&x| x.clone()).collect();
    let mut done = Vec::with_capacity(lazy.len());
    for device in [Device::CPU, Device::GPU] {
        let outputs: Vec<MLXArray> = lazy.iter().filter(|x| x.device() == device).cloned().collect();
        if outputs.is_empty() {
            continue;
        }
        let mut program = Program::new(&outputs)?;
        program.run()?;
        done.extend(outputs.into_iter().enumerate().map(|(i, array)| (array, program.output(i))));
    }
    for (array, buffer) in done {
        array.set_ready(buffer);
    }
    Ok(())
}
