//! Trust, after a trial: drivers miscompile.
//!
//! The first time a kernel is chosen on an adapter, the smallest case of its op that links to the same
//! shaders runs and is compared with the definition. A kernel that disagrees is switched off with a log
//! line, and the next best, or the meaning, takes its place. Ops from outside the crate have no cases and
//! are trusted.

use crate::gpu::Gpu;
use crate::op::{Case, Kernel, Op, Site, Spec};
use crate::ops;
use crate::trial::Trial;
use crate::wgsl::link;
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// What makes two uses of a kernel the same code: shaders and constants, not sizes.
fn identity(kernel: &Kernel) -> u64 {
    let mut hasher = DefaultHasher::new();
    for stage in &kernel.stages {
        // Baked parameters are sizes.
        link(&stage.files, &stage.generated).key().hash(&mut hasher);
        for (name, value) in &stage.constants {
            (name, value.to_bits()).hash(&mut hasher);
        }
    }
    hasher.finish()
}

/// By adapter and code.
type Verdicts = HashMap<(String, u64), Option<bool>>;

/// Whether an op has a kernel on the GPU for inputs of these specs, and one to trust.
pub(crate) fn has_kernel(op: impl Op, inputs: &[Spec], output: &Spec) -> bool {
    let Ok(gpu) = Gpu::shared() else { return false };
    let site = Site { inputs, output, caps: gpu.caps() };
    op.kernels(&site).iter().any(|kernel| trusted(&op, kernel, &gpu))
}

/// Whether a kernel may be used: not if it disagreed.
pub(super) fn trusted(op: &dyn Op, kernel: &Kernel, gpu: &Arc<Gpu>) -> bool {
    verdict(op, kernel, gpu) != Some(false)
}

/// Whether a kernel does on this adapter what its op says; `None` if no case runs its code.
pub(super) fn verdict(op: &dyn Op, kernel: &Kernel, gpu: &Arc<Gpu>) -> Option<bool> {
    static VERDICTS: LazyLock<Mutex<Verdicts>> = LazyLock::new(Mutex::default);
    let key = (gpu.name().to_string(), identity(kernel));
    let verdicts = || VERDICTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(&verdict) = verdicts().get(&key) {
        return verdict;
    }
    let verdict = smallest(op, key.1, gpu).map(|(trial, kernel)| match trial.gpu(gpu, &kernel) {
        Ok(()) => true,
        Err(e) => {
            let name = kernel.stages.first().map_or(op.name(), |stage| stage.name);
            log::warn!("{}: kernel {name} is switched off: {e}", gpu.name());
            gpu.switch_off(format!("{name} ({e})"));
            false
        }
    });
    verdicts().insert(key, verdict);
    verdict
}

/// The smallest case of an op that runs the same code, as one of its kernels or in an arrangement of them.
fn smallest(op: &dyn Op, code: u64, gpu: &Arc<Gpu>) -> Option<(Trial, Kernel)> {
    let (_, cases) = ops::ALL.iter().find(|(name, _)| *name == op.name())?;
    let mut cases = cases();
    cases.sort_by_key(|case| case.inputs.iter().map(|fill| fill.spec().bytes()).sum::<usize>());
    for kernels in [Case::kernels, Case::variants] {
        let same = |case: &Case| kernels(case, gpu.caps()).into_iter().find(|k| identity(k) == code);
        let found = cases.iter().enumerate().find_map(|(i, case)| Some((i, same(case)?)));
        if let Some((i, kernel)) = found {
            return Trial::new(cases.swap_remove(i), 1).ok().map(|trial| (trial, kernel));
        }
    }
    None
}

/// Tries every kernel of every op on the adapter, as first use would, and returns how many were tried and
/// what disagreed with its definition.
///
/// # Errors
/// No adapter.
pub fn try_kernels() -> crate::Result<(usize, Vec<String>)> {
    let gpu = Gpu::shared()?;
    let (mut tried, mut wrong) = (HashSet::new(), Vec::new());
    for (name, cases) in ops::ALL {
        for case in cases() {
            let new: Vec<Kernel> =
                case.kernels(gpu.caps()).into_iter().filter(|k| tried.insert(identity(k))).collect();
            if new.is_empty() {
                continue;
            }
            let trial = Trial::new(case, 1)?;
            wrong.extend(new.iter().filter_map(|k| trial.gpu(&gpu, k).err()).map(|e| format!("{name}: {e}")));
        }
    }
    Ok((tried.len(), wrong))
}
