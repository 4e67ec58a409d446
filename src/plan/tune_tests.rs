//! Tuning: what is refused, what is kept, and that kernels found on disk compute the same.

use super::graph::{Chosen, Target, choose};
use super::tune::Class;
use super::tuned::{adopt, arrangement, key, tuned_shapes};
use crate::array::MLXArray;
use crate::dtype::Dtype;
use crate::gpu::{Gpu, Options, or_skip};
use crate::op::{Kernel, Op, Site, Spec, Word};
use crate::ops::{Format, GateKind, Linear};
use crate::trial::Trial;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A device that keeps things in `folder`.
fn open(folder: &Path) -> Option<Arc<Gpu>> {
    let options = Options { pipeline_cache: Some(folder.to_path_buf()), ..Options::from_env() };
    or_skip(Gpu::open(&options))
}

fn linear() -> Linear {
    let linear = Linear::new(Format::Affine { bits: 4, group: 64 }, false);
    Linear { norm: Some(1e-5), gate: Some(GateKind::Silu), ..linear }
}

/// Inputs and output of a gated layer of 300 rows and 256 columns.
fn specs() -> (Vec<Spec>, Spec) {
    let scales = Spec::new(&[300, 4], Dtype::BF16);
    let inputs = vec![
        Spec::new(&[1, 256], Dtype::F32),
        Spec::new(&[256], Dtype::BF16),
        Spec::new(&[300, 32], Dtype::U32),
        scales.clone(),
        scales,
    ];
    (inputs, Spec::new(&[1, 150], Dtype::F32))
}

/// A class over weights that are not zero.
fn class(op: Arc<dyn Op>, gpu: &Arc<Gpu>) -> Class {
    let (inputs, output) = specs();
    let weight = |spec: &Spec| {
        let buffer = gpu.alloc(spec.bytes() as u64).unwrap();
        // Any codes; as bf16, numbers around 1 with either sign.
        let half = |i: u32| (i.wrapping_mul(0x9e37_79b1) >> 16) as u16;
        let halves = (0..spec.bytes() as u32 / 2).map(half);
        let float = |x: u16| if spec.dtype == Dtype::BF16 { x & 0x80ff | 0x3f00 } else { x };
        let bytes: Vec<u8> = halves.flat_map(|x| float(x).to_le_bytes()).collect();
        gpu.write(&buffer, 0, &bytes).unwrap();
        buffer
    };
    let uses = vec![inputs.iter().enumerate().map(|(i, s)| (i > 0).then(|| weight(s))).collect(); 2];
    Class { op, inputs, output, uses }
}

/// A linear layer whose list of arrangements is somebody's mistake.
#[derive(Debug)]
struct Mistaken(Mistake);

type Mistake = fn(&mut Kernel);

impl Op for Mistaken {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn words(&self) -> Vec<Word> {
        linear().words()
    }

    fn meaning(&self, inputs: &[MLXArray]) -> MLXArray {
        linear().meaning(inputs)
    }

    fn kernels(&self, site: &Site<'_>) -> Vec<Kernel> {
        linear().kernels(site)
    }

    fn variants(&self, site: &Site<'_>) -> Vec<Kernel> {
        let mut kernel = self.kernels(site).remove(0);
        (self.0)(&mut kernel);
        vec![kernel]
    }
}

#[test]
fn wrong_arrangements_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let Some(gpu) = open(folder.path()) else { return };
    let mistakes: [(Mistake, &str); 2] = [
        // Half of the rows. The code is right, and so is its trial.
        (
            |kernel| {
                let stage = &mut kernel.stages[0];
                stage.params.iter_mut().filter(|p| p.0 == "rows").for_each(|p| p.1 = 150u32.into());
                stage.grid[0] += 1;
            },
            "own choice",
        ),
        // Another gate, which no case has here.
        (
            |kernel| {
                let constants = &mut kernel.stages[0].constants;
                constants.iter_mut().filter(|c| c.0 == "ACT").for_each(|c| c.1 = (c.1 + 1.0) % 3.0);
            },
            "no case",
        ),
    ];
    for (mistake, why) in mistakes {
        let class = class(Arc::new(Mistaken(mistake)), &gpu);
        let shape = class.tune(&gpu, 0, Duration::ZERO).unwrap().unwrap();
        let refused = |e: &String| e.contains(why);
        let last = shape.tried.last().unwrap();
        assert!(last.outcome.as_ref().is_err_and(refused), "{:?}, not {why}", shape.tried);
        assert_ne!(shape.best, shape.tried.len() - 1);
        assert!(shape.tried[0].outcome.is_ok());
    }
}

#[test]
fn every_arrangement_of_a_layer_is_timed() {
    let folder = tempfile::tempdir().unwrap();
    let Some(gpu) = open(folder.path()) else { return };
    let class = class(Arc::new(linear()), &gpu);
    let shape = class.tune(&gpu, 1 << 20, Duration::ZERO).unwrap().unwrap();
    let (inputs, output) = specs();
    let site = Site { inputs: &inputs, output: &output, caps: gpu.caps() };
    // Small weights have fewer workgroups than some arrangements ask for: those are alike.
    let way = |kernel: Kernel| format!("{:?} {:?}", kernel.stages[0].constants, kernel.stages[0].grid);
    let ways: std::collections::HashSet<_> = linear().variants(&site).into_iter().map(way).collect();
    assert!(shape.tried.len() >= ways.len(), "{shape:?}");
    assert_eq!(shape.calls, 2);
    for tried in &shape.tried {
        assert!(tried.outcome.is_ok(), "{tried:?}");
    }
    let names: std::collections::HashSet<_> = shape.tried.iter().map(|t| &t.name).collect();
    assert_eq!(names.len(), shape.tried.len(), "{names:?}");
    assert_eq!(tuned_shapes(&gpu), 1);
}

fn chosen(gpu: &Arc<Gpu>) -> Kernel {
    let (inputs, output) = specs();
    let target = Target::new(Some(gpu.caps()), Some(gpu));
    let op: Arc<dyn Op> = Arc::new(linear());
    match choose(&op, &inputs, &output, &target) {
        Some(Chosen::Gpu(linked)) => linked.kernel.clone(),
        _ => panic!("a linear layer has kernels"),
    }
}

/// The only file that was written about tuning.
fn file(folder: &Path) -> PathBuf {
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut tuned: Vec<_> = paths.filter(|path| path.extension().is_some_and(|e| e == "json")).collect();
    assert_eq!(tuned.len(), 1, "{tuned:?}");
    tuned.remove(0)
}

#[test]
fn what_was_found_is_used_by_the_next_process() {
    let folder = tempfile::tempdir().unwrap();
    let Some(gpu) = open(folder.path()) else { return };
    let (inputs, output) = specs();
    let site = Site { inputs: &inputs, output: &output, caps: gpu.caps() };
    let own = chosen(&gpu);
    let variants = linear().variants(&site);
    let other = variants.iter().find(|k| arrangement(k) != arrangement(&own)).unwrap();
    assert_eq!(tuned_shapes(&gpu), 0);
    adopt(&gpu, [(key(&linear(), &site, &own), arrangement(other))]);
    assert_eq!(tuned_shapes(&gpu), 1);
    assert_eq!(arrangement(&chosen(&gpu)), arrangement(other));

    // A device with the same folder in another place stands for another process.
    let next = |change: &dyn Fn(&mut Value)| {
        let next = tempfile::tempdir().unwrap();
        let path = file(folder.path());
        let mut all: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut all);
        std::fs::write(next.path().join(path.file_name().unwrap()), all.to_string()).unwrap();
        arrangement(&chosen(&open(next.path()).unwrap()))
    };
    assert_eq!(next(&|_| {}), arrangement(other));
    // Stale: another version, driver, adapter; an arrangement or a choice that is no more.
    for field in ["version", "driver", "adapter"] {
        assert_eq!(next(&|all| all[field] = json!("another")), arrangement(&own), "{field}");
    }
    let entry = key(&linear(), &site, &own);
    assert_eq!(next(&|all| all["kernels"][&entry] = json!("matvec R=3")), arrangement(&own));
    let past = |all: &mut Value| all["kernels"] = json!({ entry.replace("WG=", "WG=1"): arrangement(other) });
    assert_eq!(next(&past), arrangement(&own));
    // Damaged.
    assert_eq!(next(&|all| all["kernels"] = json!(7)), arrangement(&own));
    assert_eq!(next(&|all| all["kernels"][&entry] = json!(7)), arrangement(&own));
    assert_eq!(next(&|all| *all = json!("")), arrangement(&own));
    let cut = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(file(folder.path())).unwrap();
    let place = cut.path().join(file(folder.path()).file_name().unwrap());
    std::fs::write(&place, &bytes[..bytes.len() / 2]).unwrap();
    let gpu = open(cut.path()).unwrap();
    assert_eq!(arrangement(&chosen(&gpu)), arrangement(&own));
    // And replaced by the next tuning.
    adopt(&gpu, [(entry, arrangement(other))]);
    assert_eq!(std::fs::read(place).unwrap(), bytes);
}

#[test]
fn every_arrangement_computes_what_the_op_means() {
    let folder = tempfile::tempdir().unwrap();
    let Some(gpu) = open(folder.path()) else { return };
    let cases = crate::ops::ALL.iter().flat_map(|(_, cases)| cases());
    let cases = cases.filter(|case| case.inputs[0].spec().dims[0] <= 8 && case.reduction % 64 == 0);
    // A few formats, with what stands around them.
    for case in cases.filter(|case| !case.variants(gpu.caps()).is_empty()).step_by(11) {
        let trial = Trial::new(case, 5).unwrap();
        for kernel in trial.case.variants(gpu.caps()) {
            trial.gpu(&gpu, &kernel).unwrap();
        }
    }
}
