//! Trust, after a trial: drivers miscompile.
//!
//! Before a plan uses a kernel for the first time on an adapter, the smallest case of its op that links to the
//! same shaders, or one made for it, runs and is compared with the definition. A kernel that disagrees is
//! switched off with a log line, and the next best, or the meaning, takes its place. Ops from outside the crate
//! have no cases and are trusted. That a kernel agreed is kept for later processes ([`kept`](super::kept)).

use super::graph::{Chosen, Graph, Kind, Node};
use super::kept::{Place, damaged};
use super::program::PLANNING;
use crate::gpu::{Caps, Gpu, Spent};
use crate::op::{Case, Kernel, Op, Site, Spec};
use crate::ops;
use crate::trial::Trial;
use crate::wgsl::link;
use rayon::prelude::*;
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

/// Time spent on trials, and on pipelines for them.
static TRIALS: Spent = Spent::new();
static PIPELINES: Spent = Spent::new();

/// Time that this process has spent on trials of kernels, and of that on their pipelines.
pub(super) fn trial_time() -> (Duration, Duration) {
    (TRIALS.so_far(), PIPELINES.so_far())
}

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

/// What is known of kernels on a device, by their code.
#[derive(Default)]
struct Known {
    /// Whether they agreed; `None`: no case runs them.
    verdicts: HashMap<u64, Option<bool>>,
    /// Whether some are not in the file.
    changed: bool,
}

/// Runs `look` on what is known of a device; at first that is what earlier processes kept.
fn known<T>(gpu: &Gpu, look: impl FnOnce(&Place, &mut Known) -> T) -> T {
    static DEVICES: LazyLock<Mutex<HashMap<Place, Known>>> = LazyLock::new(Mutex::default);
    let place = Place::of(gpu, &format!("tried_{}", gpu.way()));
    let mut devices = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
    let known = devices
        .entry(place.clone())
        .or_insert_with(|| Known { verdicts: place.read(verdicts), changed: false });
    look(&place, known)
}

/// The entries of a file. A kernel that disagreed is not among them: it is tried again.
fn verdicts(entries: &Map<String, Value>) -> crate::Result<HashMap<u64, Option<bool>>> {
    let entry = |(code, agreed): (&String, &Value)| {
        let known = matches!(agreed, Value::Bool(true) | Value::Null).then_some(agreed.as_bool());
        let code_of = |agreed| Some((u64::from_str_radix(code, 16).ok()?, agreed));
        known.and_then(code_of).ok_or_else(|| damaged(code))
    };
    entries.iter().map(entry).collect()
}

/// Keeps what was found out since the last time.
fn keep(gpu: &Gpu) {
    known(gpu, |place, known| {
        if !std::mem::take(&mut known.changed) {
            return;
        }
        // Another process may have added to it.
        let mut all = place.read(verdicts);
        all.extend(known.verdicts.iter().filter(|(_, agreed)| **agreed != Some(false)));
        let entries = all.iter().map(|(code, agreed)| (format!("{code:016x}"), Value::from(*agreed)));
        place.write(entries.collect());
    });
}

/// Runs trials, counts their time and keeps what they found.
fn trying<T>(gpu: &Gpu, trials: impl FnOnce() -> T) -> T {
    let before = gpu.pipeline_time();
    let outcome = TRIALS.on(trials);
    PIPELINES.add(gpu.pipeline_time() - before);
    keep(gpu);
    outcome
}

/// Whether an op has a kernel on the GPU for inputs of these specs, and one to trust.
pub(crate) fn has_kernel(op: impl Op, inputs: &[Spec], output: &Spec) -> bool {
    let Ok(gpu) = Gpu::shared() else { return false };
    let site = Site { inputs, output, caps: gpu.caps() };
    PLANNING.on(|| {
        let kernels = op.kernels(&site);
        trying(&gpu, || kernels.iter().any(|kernel| trusted(&op, inputs, kernel, &gpu)))
    })
}

/// Whether a kernel may be used for inputs of these specs: not if it disagreed.
pub(super) fn trusted(op: &dyn Op, inputs: &[Spec], kernel: &Kernel, gpu: &Arc<Gpu>) -> bool {
    verdict(op, inputs, kernel, gpu) != Some(false)
}

/// Whether a kernel was tried already and disagreed.
pub(super) fn is_refused(kernel: &Kernel, gpu: &Gpu) -> bool {
    known(gpu, |_, known| {
        let some = known.verdicts.values().any(|agreed| *agreed == Some(false));
        some && known.verdicts.get(&identity(kernel)) == Some(&Some(false))
    })
}

/// Whether every kernel of a graph may be used; those that nobody has tried are tried now.
pub(super) fn all_trusted(graph: &Graph, gpu: &Arc<Gpu>) -> bool {
    let mut seen = HashSet::new();
    let kernel = |node: &Node| match &node.kind {
        Kind::Op { op, kernel: Chosen::Gpu(linked), inputs } => seen.insert(Arc::as_ptr(linked)).then(|| {
            let specs: Vec<Spec> = inputs.iter().map(|&i| graph.nodes[i].spec.clone()).collect();
            (op.clone(), specs, linked.clone())
        }),
        _ => None,
    };
    let kernels: Vec<_> = graph.nodes.iter().filter_map(kernel).collect();
    // Most of a trial's time is its pipelines'. All are tried, even after one has failed.
    let tried =
        || kernels.par_iter().map(|(op, specs, linked)| trusted(op.as_ref(), specs, &linked.kernel, gpu));
    trying(gpu, || tried().reduce(|| true, |a, b| a && b))
}

/// Whether a kernel for inputs of these specs does on this adapter what its op says; `None` if no case runs its code.
pub(super) fn verdict(op: &dyn Op, inputs: &[Spec], kernel: &Kernel, gpu: &Arc<Gpu>) -> Option<bool> {
    let code = identity(kernel);
    if let Some(verdict) = known(gpu, |_, known| known.verdicts.get(&code).copied()) {
        return verdict;
    }
    let trial = smallest(op, inputs, code, gpu.caps());
    let trial = trial.and_then(|(case, kernel)| Some((Trial::new(case, 1).ok()?, kernel)));
    let outcome = trial.map(|(trial, kernel)| (trial.gpu(gpu, &kernel), kernel));
    // Such an error says nothing about the kernel.
    if matches!(&outcome, Some((Err(e), _)) if e.is_memory() || gpu.is_lost()) {
        return None;
    }
    let verdict = outcome.map(|(outcome, kernel)| match outcome {
        Ok(()) => true,
        Err(e) => {
            let name = kernel.stages.first().map_or(op.name(), |stage| stage.name);
            log::warn!("{}: kernel {name} is switched off: {e}", gpu.name());
            gpu.switch_off(format!("{name} ({e})"));
            false
        }
    });
    known(gpu, |_, known| {
        known.verdicts.insert(code, verdict);
        known.changed |= verdict != Some(false);
    });
    verdict
}

/// The smallest case of an op that runs the same code, as one of its kernels or in an arrangement of them; else one made
/// for inputs of these specs.
fn smallest(op: &dyn Op, inputs: &[Spec], code: u64, caps: &Caps) -> Option<(Case, Kernel)> {
    let (_, cases) = ops::ALL.iter().find(|(name, _)| *name == op.name())?;
    let mut cases = cases();
    cases.sort_by_key(|case| case.inputs.iter().map(|fill| fill.spec().bytes()).sum::<usize>());
    cases.extend(op.small(inputs));
    for kernels in [Case::kernels, Case::variants] {
        let same = |case: &Case| kernels(case, caps).into_iter().find(|k| identity(k) == code);
        let found = cases.iter().enumerate().find_map(|(i, case)| Some((i, same(case)?)));
        if let Some((i, kernel)) = found {
            return Some((cases.swap_remove(i), kernel));
        }
    }
    None
}

/// Tries every kernel of every op on the adapter, as first use would, and returns how many were tried and
/// what disagreed with its definition; with `only`, just those whose op's or stage's name contains it.
///
/// # Errors
/// No adapter.
pub fn try_kernels(only: &str) -> crate::Result<(usize, Vec<String>)> {
    let gpu = Gpu::shared()?;
    let mut tried = HashSet::new();
    let mut work = Vec::new();
    for (name, cases) in ops::ALL {
        for case in cases() {
            let wanted = |kernel: &Kernel| {
                name.contains(only) || kernel.stages.iter().any(|stage| stage.name.contains(only))
            };
            let kernels = case.kernels(gpu.caps()).into_iter().filter(wanted);
            let new: Vec<Kernel> = kernels.filter(|k| tried.insert(identity(k))).collect();
            if !new.is_empty() {
                work.push((name, case, new));
            }
        }
    }
    let outcome = |(name, case, kernels): (_, Case, Vec<Kernel>)| {
        let trial = Trial::new(case, 1)?;
        let wrong = kernels.iter().filter_map(|kernel| trial.gpu(&gpu, kernel).err());
        Ok(wrong.map(|e| format!("{name}: {e}")).collect::<Vec<_>>())
    };
    let wrong: crate::Result<Vec<Vec<String>>> = work.into_par_iter().map(outcome).collect();
    Ok((tried.len(), wrong?.concat()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MLXArray;
    use crate::dtype::Dtype;
    use crate::gpu::{Options, or_skip};
    use crate::ops::{Format, Gate, GateKind, Linear};
    use crate::plan::graph::Target;
    use std::path::Path;

    /// The adapter, with another memory of what was tried.
    fn open(folder: &Path) -> Option<Arc<Gpu>> {
        let options = Options { pipeline_cache: Some(folder.to_path_buf()), ..Options::from_env() };
        or_skip(Gpu::open(&options))
    }

    fn graph(gpu: &Arc<Gpu>) -> Graph {
        let x = || MLXArray::placeholder(Spec::new(&[2, 64], Dtype::F32));
        let y = MLXArray::apply(Gate { kind: GateKind::Silu }, &[&x(), &x()]);
        Graph::of(&[y], &Target::new(Some(gpu.caps()), Some(gpu)))
    }

    /// The kernels of a graph.
    fn kernels(graph: &Graph) -> Vec<u64> {
        let code = |node: &crate::plan::graph::Node| match &node.kind {
            Kind::Op { kernel: Chosen::Gpu(linked), .. } => Some(identity(&linked.kernel)),
            _ => None,
        };
        graph.nodes.iter().filter_map(code).collect()
    }

    #[test]
    fn a_case_runs_what_models_of_common_shapes_run() {
        let nvidia = Caps {
            dot4: true,
            f16: true,
            subgroups: Some((32, 32)),
            workgroup_size: 1024,
            workgroup_memory: 48 << 10,
            storage_buffers: 30,
            max_binding: 1 << 31,
            ..Caps::BASELINE
        };
        let apple = Caps { dot4: false, unified: true, ..nvidia.clone() };
        // Rows and length of each weight of Llama of 1B and 8B and of Qwen2.5 of 0.5B: q, k and v; o; gate and up; down.
        let shapes = [
            [(3072, 2048), (2048, 2048), (16384, 2048), (2048, 8192)],
            [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336)],
            [(1152, 896), (896, 896), (9728, 896), (896, 4864)],
        ];
        let packed = [2, 3, 4, 5, 6, 8].map(|bits| Format::Affine { bits, group: 64 });
        let formats = [&[Format::Dense], &packed[..]].concat();
        for (caps, format) in
            [&nvidia, &apple].into_iter().flat_map(|caps| formats.iter().map(move |&format| (caps, format)))
        {
            for (i, (n, k)) in shapes.into_iter().flat_map(|shapes| shapes.into_iter().enumerate()) {
                let op = Linear {
                    norm: (i % 2 == 0).then_some(1e-5),
                    gate: (i == 2).then_some(GateKind::Silu),
                    residual: i % 2 == 1,
                    ..Linear::new(format, false)
                };
                for m in [1, 2, 4, 8] {
                    let x = Spec::new(&[m, k], Dtype::F32);
                    let mut inputs = vec![x];
                    inputs.extend(op.norm.map(|_| Spec::new(&[k], Dtype::BF16)));
                    inputs.extend(match format {
                        Format::Dense => vec![Spec::new(&[n, k], Dtype::BF16)],
                        Format::Affine { bits, group } => {
                            let scales = Spec::new(&[n, k / group], Dtype::BF16);
                            vec![Spec::new(&[n, k * bits as usize / 32], Dtype::U32), scales.clone(), scales]
                        }
                    });
                    let output = Spec::new(&[m, if i == 2 { n / 2 } else { n }], Dtype::F32);
                    inputs.extend(op.residual.then(|| output.clone()));
                    let site = Site { inputs: &inputs, output: &output, caps };
                    let kernel = &op.kernels(&site)[0];
                    let found = smallest(&op, &inputs, identity(kernel), caps);
                    assert!(found.is_some(), "{op:?} of {m}, {n} x {k}: {:?}", kernel.stages[0].constants);
                }
            }
        }
    }

    #[test]
    fn a_kernel_is_tried_once_for_all_processes_and_not_used_if_refused() {
        let folder = tempfile::tempdir().unwrap();
        let Some(gpu) = open(folder.path()) else { return };
        let [code] = kernels(&graph(&gpu))[..] else { panic!("one kernel") };
        assert!(known(&gpu, |_, known| known.verdicts.is_empty()), "nothing is tried before a graph is done");
        assert!(all_trusted(&graph(&gpu), &gpu));
        let verdict_of = |gpu: &Gpu| known(gpu, |_, known| known.verdicts.get(&code).copied());
        assert_eq!(verdict_of(&gpu), Some(Some(true)));

        // A device with the same file in another folder stands for another process.
        let file = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let file = file.into_iter().find(|path| path.extension().is_some_and(|e| e == "json")).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        let next = |text: &str| {
            let next = tempfile::tempdir().unwrap();
            std::fs::write(next.path().join(file.file_name().unwrap()), text).unwrap();
            verdict_of(&open(next.path()).unwrap())
        };
        assert_eq!(next(&text), Some(Some(true)));
        assert_eq!(next(&text.replace("true", "null")), Some(None));
        for damage in ["false", "7", "tru"] {
            assert_eq!(next(&text.replace("true", damage)), None, "{damage}");
        }

        known(&gpu, |_, known| known.verdicts.insert(code, Some(false)));
        assert!(!kernels(&graph(&gpu)).contains(&code));
        known(&gpu, |_, known| known.changed = true);
        keep(&gpu);
        // What another process found stays; what was refused here is not written.
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    }
}
