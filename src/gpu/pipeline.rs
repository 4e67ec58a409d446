//! From a linked shader to a pipeline, each made once.
//!
//! Kernels are our own, checked against the reference, so they are compiled without naga's bounds
//! checks, loop counters and division checks (`Options::checked` keeps them), and workgroup memory is
//! not zeroed. Before wgpu sees a shader it is read and validated here, with its constants filled in: so
//! errors name file and line, workgroups too large for the device are refused (wgpu looks at neither
//! size once constants decide it), and the explicit bind group layout knows how many bytes each binding
//! needs, which leaves wgpu nothing to check per dispatch.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use naga::back::pipeline_constants::process_overrides;

use super::device::lock;
use super::fragments;
use crate::error::{Context, Error, Result};
use crate::gpu::{Dispatch, Gpu};

/// What makes two dispatches share a pipeline.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    source: u64,
    constants: Vec<(&'static str, u64)>,
    writes: Vec<bool>,
    params: usize,
}

impl Key {
    fn of(dispatch: &Dispatch) -> Key {
        Key {
            source: dispatch.source.key(),
            constants: dispatch.constants.iter().map(|(name, value)| (*name, value.to_bits())).collect(),
            writes: dispatch.binds.iter().map(|bind| bind.write).collect(),
            params: dispatch.params.len(),
        }
    }

    /// The same number in every process.
    fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        Hash::hash(self, &mut hasher);
        hasher.finish()
    }
}

/// Pipelines compiled at the same time. More gain little, and drivers take their memory.
const AT_ONCE: usize = 8;

/// Pipelines that are kept though nobody holds them. A number in an expression is part of its kernel's text, so an
/// application may ask for new ones without end.
const MOST: usize = 4096;

/// Drops what nobody else holds, if there are `most`.
fn make_room<K: Eq + Hash, V>(known: &mut HashMap<K, Arc<V>>, most: usize) {
    if known.len() >= most {
        known.retain(|_, value| Arc::strong_count(value) > 1);
    }
}

/// `make(0), make(1), .. make(count - 1)`, on several threads.
fn each<T: Send>(count: usize, make: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(AT_ONCE).min(count);
    if threads <= 1 {
        return (0..count).map(make).collect();
    }
    let (next, made) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(count)));
    std::thread::scope(|scope| {
        let work = || {
            loop {
                let i = next.fetch_add(1, Relaxed);
                if i >= count {
                    break;
                }
                let value = make(i);
                lock(&made).push((i, value));
            }
        };
        (0..threads).for_each(|_| drop(scope.spawn(work)));
    });
    let mut made = made.into_inner().unwrap_or_else(PoisonError::into_inner);
    made.sort_by_key(|(i, _)| *i);
    made.into_iter().map(|(_, value)| value).collect()
}

/// A compiled kernel.
pub(super) struct Pipeline {
    pub(super) raw: wgpu::ComputePipeline,
    pub(super) layout: wgpu::BindGroupLayout,
    /// The least bytes each storage binding must show.
    pub(super) least: Vec<u64>,
}

/// What a valid shader comes to: the least size of each binding, and SPIR-V where that is not made from its text.
struct Checked {
    least: Vec<u64>,
    spirv: Option<Vec<u32>>,
}

impl Gpu {
    /// The pipelines of dispatches, in their order; new ones are compiled now, several at a time.
    pub(super) fn pipelines(&self, dispatches: &[&Dispatch]) -> Result<Vec<Arc<Pipeline>>> {
        let keys: Vec<Key> = dispatches.iter().map(|dispatch| Key::of(dispatch)).collect();
        let mut have: HashMap<&Key, Arc<Pipeline>> = {
            let known = lock(&self.pipelines);
            keys.iter().filter_map(|key| known.get(key).map(|pipeline| (key, pipeline.clone()))).collect()
        };
        let mut seen = HashSet::new();
        let new: Vec<usize> =
            (0..keys.len()).filter(|&i| !have.contains_key(&keys[i]) && seen.insert(&keys[i])).collect();
        if !new.is_empty() {
            // Not under the lock: other threads may compile other kernels meanwhile.
            let made = self.kept.spent.on(|| {
                each(new.len(), |i| {
                    let dispatch = dispatches[new[i]];
                    self.compile(dispatch).with_context(|| format!("kernel {}", dispatch.name))
                })
            });
            let mut failure = None;
            for (&i, pipeline) in new.iter().zip(made) {
                match pipeline {
                    Ok(pipeline) => {
                        self.kept.made(keys[i].hash());
                        have.insert(&keys[i], self.remember(&keys[i], pipeline));
                    }
                    Err(e) => failure = failure.or(Some(e)),
                }
            }
            self.save_pipelines_soon();
            if let Some(e) = failure {
                return Err(e);
            }
        }
        Ok(keys.iter().map(|key| have[key].clone()).collect())
    }

    /// Keeps a pipeline for dispatches to come; where there are many, those that no recording holds go.
    fn remember(&self, key: &Key, pipeline: Pipeline) -> Arc<Pipeline> {
        let mut known = lock(&self.pipelines);
        make_room(&mut known, MOST);
        known.entry(key.clone()).or_insert(Arc::new(pipeline)).clone()
    }

    fn compile(&self, dispatch: &Dispatch) -> Result<Pipeline> {
        let Checked { least, spirv } = self.check(dispatch)?;
        let entries: Vec<_> = least
            .iter()
            .enumerate()
            .map(|(at, &bytes)| wgpu::BindGroupLayoutEntry {
                binding: at as u32,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: match dispatch.binds.get(at) {
                        Some(bind) => wgpu::BufferBindingType::Storage { read_only: !bind.write },
                        None => wgpu::BufferBindingType::Uniform,
                    },
                    has_dynamic_offset: false,
                    min_binding_size: wgpu::BufferSize::new(bytes),
                },
                count: None,
            })
            .collect();
        let (raw, layout) = self.guarded("compiling", || {
            // SPIR-V has its constants already.
            let constants = if spirv.is_some() { &[] } else { &dispatch.constants[..] };
            let shader = self.shader(dispatch, spirv);
            let layout = self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label: Some(&dispatch.name),
                entries: &entries,
            });
            let whole = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(&dispatch.name),
                bind_group_layouts: &[Some(&layout)],
                immediate_size: 0,
            });
            let raw = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(&dispatch.name),
                layout: Some(&whole),
                module: &shader,
                entry_point: Some("main"),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants,
                    zero_initialize_workgroup_memory: false,
                },
                cache: self.kept.raw(),
            });
            (raw, layout)
        })?;
        Ok(Pipeline { raw, layout, least })
    }

    /// The shader that `check` found valid, from its text or from SPIR-V.
    fn shader(&self, dispatch: &Dispatch, spirv: Option<Vec<u32>>) -> wgpu::ShaderModule {
        let label = Some(&*dispatch.name);
        let Some(words) = spirv else {
            let checks = match self.checked {
                true => wgpu::ShaderRuntimeChecks::checked(),
                false => wgpu::ShaderRuntimeChecks::unchecked(),
            };
            let source = wgpu::ShaderSource::Wgsl(dispatch.source.text().into());
            // SAFETY: every kernel is part of this crate or handed in by the application as code to be
            // trusted; each keeps within its bindings and ends its loops.
            return unsafe {
                self.device
                    .create_shader_module_trusted(wgpu::ShaderModuleDescriptor { label, source }, checks)
            };
        };
        let entry = wgpu::PassthroughShaderEntryPoint { name: "main".into(), workgroup_size: (1, 1, 1) };
        let descriptor = wgpu::ShaderModuleDescriptorPassthrough {
            label,
            entry_points: vec![entry].into(),
            spirv: Some(words.into()),
            ..Default::default()
        };
        // SAFETY: as above; naga made these words of a shader that was validated, all but the bodies of two functions
        // that need no memory, for a device on which they were tried.
        unsafe { self.device.create_shader_module_passthrough(descriptor) }
    }

    /// Validates the shader as this dispatch uses it.
    fn check(&self, dispatch: &Dispatch) -> Result<Checked> {
        let source = &dispatch.source;
        let module = source.parse().map_err(Error::device)?;
        let info = source.validate(&module, naga::valid::Capabilities::all()).map_err(Error::device)?;
        let constants = dispatch.constants.iter().map(|(name, value)| (name.to_string(), *value)).collect();
        let main = Some((naga::ShaderStage::Compute, "main"));
        let (module, info) = process_overrides(&module, &info, main, &constants).map_err(Error::device)?;
        let Some(at) = module.entry_points.iter().position(|entry| entry.name == "main") else {
            return Err(Error::device("the shader has no entry point `main`"));
        };

        let caps = self.caps();
        let size = module.entry_points[at].workgroup_size;
        let count = size.iter().map(|side| u64::from(*side)).product::<u64>();
        if count > u64::from(caps.workgroup_size) {
            let most = caps.workgroup_size;
            return Err(Error::unsupported(format!(
                "workgroups of {size:?}, {most} invocations is the most"
            )));
        }
        let entry = info.get_entry_point(at);
        let shared = module.global_variables.iter().filter(|(handle, variable)| {
            variable.space == naga::AddressSpace::WorkGroup && !entry[*handle].is_empty()
        });
        let shared: u64 = shared.map(|(_, variable)| size_of(&module, variable)).sum();
        if shared > u64::from(caps.workgroup_memory) {
            let most = caps.workgroup_memory;
            return Err(Error::unsupported(format!(
                "{shared} bytes of workgroup memory, {most} is the most"
            )));
        }
        let spirv = match caps.fragments && fragments::are_in(&module) {
            true => Some(fragments::compile(&module, &info)?),
            false => None,
        };
        Ok(Checked { least: binding_sizes(dispatch, &module)?, spirv })
    }
}

fn size_of(module: &naga::Module, variable: &naga::GlobalVariable) -> u64 {
    // Absurd sizes come out as more than any device has.
    module.types[variable.ty].inner.try_size(module.to_ctx()).map_or(u64::MAX >> 8, u64::from)
}

/// The least size of each binding (parameters last), after checking that shader and dispatch agree.
fn binding_sizes(dispatch: &Dispatch, module: &naga::Module) -> Result<Vec<u64>> {
    let storage = dispatch.binds.len();
    let mut least = vec![4; storage];
    if !dispatch.params.is_empty() {
        least.push(params_size(dispatch));
    }
    for (_, variable) in module.global_variables.iter() {
        let Some(binding) = &variable.binding else { continue };
        let (at, name) = (binding.binding as usize, variable.name.as_deref().unwrap_or("?"));
        let wrong = |why: &str| {
            let kernel = &dispatch.name;
            Error::device(format!(
                "kernel {kernel}: `{name}` at @group({}) @binding({at}) {why}",
                binding.group
            ))
        };
        if binding.group != 0 || at >= least.len() {
            return Err(wrong("is not among what the dispatch binds"));
        }
        let size = size_of(module, variable);
        match (variable.space, dispatch.binds.get(at)) {
            (naga::AddressSpace::Storage { access }, Some(bind)) => {
                if access.contains(naga::StorageAccess::STORE) != bind.write {
                    return Err(wrong("is `read` on one side and `read_write` on the other"));
                }
                least[at] = size;
            }
            (naga::AddressSpace::Uniform, None) => {
                if size > least[at] {
                    return Err(wrong(&format!(
                        "takes {size} bytes, given are {}",
                        4 * dispatch.params.len()
                    )));
                }
            }
            _ => return Err(wrong("is storage on one side and uniform on the other")),
        }
    }
    Ok(least)
}

/// Bytes of the uniform that holds the parameters: whole vectors of four words.
pub(super) fn params_size(dispatch: &Dispatch) -> u64 {
    (4 * dispatch.params.len() as u64).next_multiple_of(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_holds_is_kept() {
        let held = Arc::new(1);
        let mut known = HashMap::from([(1, held.clone()), (2, Arc::new(2)), (3, Arc::new(3))]);
        make_room(&mut known, 4);
        assert_eq!(known.len(), 3);
        make_room(&mut known, 3);
        assert_eq!(known, HashMap::from([(1, held)]));
    }
}
