//! Every shader, without a GPU: each op's case, each kernel for each adapter, each stage is linked, parsed,
//! validated with the capabilities of its tier alone, specialised, and written as SPIR-V, MSL and HLSL;
//! bindings, parameters and limits are compared with what the Rust side says. `tint`, where it is on
//! PATH, reads them as browsers do. No file of `wgsl/` is left out.

mod support;

use naga::valid::Capabilities;
use naga::{AddressSpace, Module, ScalarKind, ShaderStage, StorageAccess, TypeInner, back};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use support::{adapters, may_have_none};
use unimlx::internals::{Source, fill_stages};
use unimlx::{Caps, Stage, Word, ops};

/// Shaders around expressions that the planner prints, and those of the engine itself: tests beside their
/// users run them.
const GENERATED: [&str; 12] = [
    "canary.wgsl",
    "canary_fragments.wgsl",
    "map.wgsl",
    "put.wgsl",
    "reduce.wgsl",
    "roof_coop.wgsl",
    "roof_dot4.wgsl",
    "roof_fill.wgsl",
    "roof_fma.wgsl",
    "roof_read.wgsl",
    "roof_step.wgsl",
    "topk.wgsl",
];

/// Calls `visit` once for each distinct stage: of each op, and what fills synthetic weights.
fn stages(mut visit: impl FnMut(&str, &str, &Caps, &Stage)) {
    let mut seen = HashSet::new();
    let mut once = |adapter, what: &str, caps: &Caps, stage: &Stage| {
        let text = format!("{}{:?}", stage.source().text(), stage.constants);
        if seen.insert((adapter, text)) {
            visit(adapter, what, caps, stage);
        }
    };
    for (name, cases) in ops::ALL {
        for case in cases() {
            for (adapter, caps) in adapters() {
                let kernels = case.kernels(&caps);
                assert!(
                    may_have_none(&case, &caps) || !kernels.is_empty(),
                    "{name} has no kernel for {adapter}: {case:?}"
                );
                for stage in kernels.iter().flat_map(|kernel| &kernel.stages) {
                    let what = format!("{name}/{} for {adapter}", stage.name);
                    assert!(
                        stage.grid.iter().all(|n| (1..=caps.max_grid).contains(n)),
                        "{what}: grid {:?}",
                        stage.grid
                    );
                    once(adapter, &what, &caps, stage);
                }
            }
        }
    }
    fill_stages().iter().for_each(|stage| once("baseline", "fill", &Caps::BASELINE, stage));
    assert!(seen.len() > 100, "only {} stages", seen.len());
}

fn capabilities(caps: &Caps) -> Capabilities {
    // Unpacking two halves from a word is part of WGSL; naga counts it as a capability.
    let mut needs = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    needs.set(Capabilities::SHADER_FLOAT16, caps.f16);
    needs.set(Capabilities::SUBGROUP | Capabilities::SUBGROUP_BARRIER, caps.subgroups.is_some());
    needs.set(Capabilities::COOPERATIVE_MATRIX, caps.coop8 || caps.coop16);
    needs
}

/// Whether a shader multiplies cooperative matrices: DirectX and browsers have none.
fn cooperates(source: &Source) -> bool {
    source.text().contains("enable wgpu_cooperative_matrix;")
}

#[test]
fn every_stage_is_valid_and_translates() {
    stages(|_, what, caps, stage| {
        let source = stage.source();
        let module = source.parse().unwrap_or_else(|e| panic!("{what}: {e}"));
        let info = source.validate(&module, capabilities(caps)).unwrap_or_else(|e| panic!("{what}: {e}"));
        check_bindings(what, &module, stage, caps);
        check_constants(what, &module, stage);

        let constants: back::PipelineConstants =
            stage.constants.iter().map(|(name, value)| (name.to_string(), *value)).collect();
        let entry = Some((ShaderStage::Compute, "main"));
        let (module, info) = back::pipeline_constants::process_overrides(&module, &info, entry, &constants)
            .unwrap_or_else(|e| panic!("{what}: constants {:?}: {e:?}", stage.constants));
        check_limits(what, &module, caps);
        translate(what, &module, &info, cooperates(&source));
    });
}

/// Reads are `read`, writes `read_write`, parameters a uniform with the members that the stage lists.
fn check_bindings(what: &str, module: &Module, stage: &Stage, caps: &Caps) {
    let (reads, writes) = (stage.reads.len(), stage.writes.len());
    let mut bound = BTreeSet::new();
    for (_, variable) in module.global_variables.iter() {
        let Some(binding) = &variable.binding else { continue };
        let name = variable.name.as_deref().unwrap_or("?");
        assert_eq!(binding.group, 0, "{what}: group of {name}");
        let at = binding.binding as usize;
        assert!(bound.insert(at), "{what}: two variables at binding {at}");
        let expected = match at {
            _ if at < reads => AddressSpace::Storage { access: StorageAccess::LOAD },
            _ if at < reads + writes => {
                AddressSpace::Storage { access: StorageAccess::LOAD | StorageAccess::STORE }
            }
            _ => AddressSpace::Uniform,
        };
        let plain = match variable.space {
            AddressSpace::Storage { access } => {
                AddressSpace::Storage { access: access - StorageAccess::ATOMIC }
            }
            other => other,
        };
        assert_eq!(plain, expected, "{what}: {name} at binding {at}");
        if at == reads + writes {
            check_params(what, module, &module.types[variable.ty].inner, &stage.params);
        }
    }
    let count = reads + writes + usize::from(!stage.params.is_empty() && !stage.baked);
    assert_eq!(bound, (0..count).collect(), "{what}: bindings");
    let most = if what.starts_with("attend") { caps } else { &Caps::BASELINE }.storage_buffers as usize;
    assert!(reads + writes <= most, "{what}: {} buffers", reads + writes);
}

fn check_params(what: &str, module: &Module, inner: &TypeInner, params: &[(&str, Word)]) {
    let TypeInner::Struct { members, .. } = inner else { panic!("{what}: params are no struct") };
    assert_eq!(members.len(), params.len(), "{what}: number of params");
    for (at, (member, (name, word))) in members.iter().zip(params).enumerate() {
        assert_eq!(member.name.as_deref(), Some(*name), "{what}: parameter {at}");
        assert_eq!(member.offset, 4 * at as u32, "{what}: offset of {name}");
        let TypeInner::Scalar(scalar) = module.types[member.ty].inner else {
            panic!("{what}: {name} is no scalar")
        };
        let kind = match word {
            Word::U32(_) => ScalarKind::Uint,
            Word::F32(_) => ScalarKind::Float,
        };
        assert_eq!((scalar.kind, scalar.width), (kind, 4), "{what}: type of {name}");
    }
}

/// A constant that no `override` takes is a slip, and wgpu would refuse it.
fn check_constants(what: &str, module: &Module, stage: &Stage) {
    for (name, _) in &stage.constants {
        let known = module.overrides.iter().any(|(_, o)| o.name.as_deref() == Some(name));
        assert!(known, "{what}: no `override {name}`");
    }
}

fn check_limits(what: &str, module: &Module, caps: &Caps) {
    assert_eq!(module.entry_points.len(), 1, "{what}: entry points");
    let size: u32 = module.entry_points[0].workgroup_size.iter().product();
    assert!(size <= caps.workgroup_size, "{what}: {size} invocations");
    let mut layouter = naga::proc::Layouter::default();
    layouter.update(module.to_ctx()).unwrap();
    let memory: u32 = module
        .global_variables
        .iter()
        .filter(|(_, variable)| variable.space == AddressSpace::WorkGroup)
        .map(|(_, variable)| layouter[variable.ty].size)
        .sum();
    assert!(memory <= caps.workgroup_memory, "{what}: {memory} bytes of workgroup memory");
}

fn translate(what: &str, module: &Module, info: &naga::valid::ModuleInfo, cooperates: bool) {
    let fail = |language: &str, e: &dyn std::fmt::Display| -> ! { panic!("{what} as {language}: {e}") };

    let options = back::spv::Options { lang_version: (1, 3), ..Default::default() };
    let pipeline =
        back::spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: "main".into() };
    if let Err(e) = back::spv::write_vec(module, info, &options, Some(&pipeline)) {
        fail("SPIR-V", &e);
    }
    let options = back::msl::Options { lang_version: (2, 4), ..Default::default() };
    if let Err(e) = back::msl::write_string(module, info, &options, &Default::default()) {
        fail("MSL", &e);
    }
    if cooperates {
        return;
    }
    let options = back::hlsl::Options { shader_model: back::hlsl::ShaderModel::V6_2, ..Default::default() };
    let mut text = String::new();
    if let Err(e) =
        back::hlsl::Writer::new(&mut text, &options, &Default::default()).write(module, info, None)
    {
        fail("HLSL", &e);
    }
}

#[test]
fn every_file_is_reached() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("wgsl");
    let mut files: BTreeSet<String> = GENERATED.map(String::from).into();
    stages(|_, _, _, stage| files.extend(stage.files.iter().map(|file| file.name.to_string())));
    for folder in ["", "parts/"] {
        for entry in std::fs::read_dir(root.join(folder)).unwrap() {
            let name = format!("{folder}{}", entry.unwrap().file_name().to_string_lossy());
            if name.ends_with(".wgsl") {
                assert!(files.contains(&name), "wgsl/{name}: no kernel links it");
            }
        }
    }
}

#[test]
fn browsers_accept_every_shader() {
    if std::process::Command::new("tint").arg("--help").output().is_err() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut texts: HashMap<String, (String, Source)> = HashMap::new();
    stages(|_, what, caps, stage| {
        let source = stage.source();
        // Browsers promise neither of these.
        if cooperates(&source) || caps.dot4 {
            return;
        }
        let text = format!("{} {}", source.for_browsers().join(" "), source.text());
        texts.entry(text).or_insert((what.to_string(), source));
    });
    for (i, (text, (what, source))) in texts.iter().enumerate() {
        let path = folder.path().join(format!("{i}.wgsl"));
        std::fs::write(&path, text).unwrap();
        let output =
            std::process::Command::new("tint").args(["--format", "wgsl"]).arg(&path).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        // `path:line:column error: ..`
        let line = message.split(':').nth(1).and_then(|line| line.parse().ok());
        assert!(output.status.success(), "{what}: {}", source.explain(&message, line));
    }
}
