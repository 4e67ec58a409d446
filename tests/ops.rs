//! Every op against its definition: each case, each kernel, each adapter's choice, and the native kernels.
//!
//! Without an adapter the GPU half is skipped, unless `UNIMLX_REQUIRE_GPU=1` promises one.

mod support;

use std::collections::HashSet;
use support::{adapters, may_have_none};
use unimlx::internals::{Gpu, Trial};
use unimlx::{Fill, Spec, ops};

fn all() -> impl Iterator<Item = (&'static str, Trial)> {
    ops::ALL.iter().flat_map(|(name, cases)| {
        cases().into_iter().enumerate().map(|(i, case)| (*name, Trial::new(case, i as u64).unwrap()))
    })
}

#[test]
fn native_kernels_mean_what_the_definition_says() {
    // What only rules make exists only where it has a kernel.
    let mut native = HashSet::from(["attend", "attend_packed"]);
    for (name, trial) in all() {
        let specs: Vec<Spec> = trial.case.inputs.iter().map(Fill::spec).collect();
        let Some(kernel) = trial.case.op.cpu(&specs) else { continue };
        native.insert(name);
        trial.cpu(&kernel).unwrap_or_else(|e| panic!("{name} on the CPU: {e}"));
    }
    for (name, _) in ops::ALL {
        assert!(native.contains(name), "{name} has no native kernel");
    }
}

#[test]
fn gpu_kernels_mean_what_the_definition_says() {
    let gpu = match Gpu::shared() {
        Ok(gpu) => gpu,
        Err(e) if std::env::var("UNIMLX_REQUIRE_GPU").is_ok_and(|v| v == "1") => {
            panic!("a GPU was promised: {e}")
        }
        Err(_) => return,
    };
    for (name, trial) in all() {
        let mut seen = HashSet::new();
        for (adapter, mut caps) in adapters().into_iter().chain([("this adapter", gpu.caps().clone())]) {
            caps.subgroups = caps.subgroups.and(gpu.caps().subgroups);
            caps.f16 &= gpu.caps().f16;
            caps.coop8 &= gpu.caps().coop8;
            caps.coop16 &= gpu.caps().coop16;
            for (i, kernel) in trial.case.kernels(&caps).iter().enumerate() {
                // Adapters often choose alike; once is enough.
                if seen.insert(format!("{kernel:?}")) {
                    trial
                        .gpu(&gpu, kernel)
                        .unwrap_or_else(|e| panic!("{name}, kernel {i} for {adapter}: {e}"));
                }
            }
        }
        let none = may_have_none(&trial.case, gpu.caps());
        assert!(none || !seen.is_empty(), "{name} has no kernel: {trial}");
    }
}
