//! Ways of opening a device: the fast one, the ordinary one, and with all checks. All compute the same.

use std::sync::Arc;

use super::tests::{open, options, scale, upload, words};
use super::*;
use crate::error::Error;
use crate::trial::Trial;
use crate::wgsl::{File, link};

fn is_vulkan(gpu: &Gpu) -> bool {
    gpu.info().backend == wgpu::Backend::Vulkan
}

/// A device with bounds checks in kernels and in the driver.
fn open_checked() -> Option<Arc<Gpu>> {
    open(&[])?;
    Some(Gpu::open(&Options { checked: true, ..options() }).unwrap())
}

fn scaled(gpu: &Arc<Gpu>) -> Vec<u32> {
    let data: Vec<u32> = (0..1000).collect();
    let buffers = [upload(gpu, &data), gpu.alloc(4000).unwrap()];
    let recording =
        Recording { buffers: vec![4000, 4000], steps: vec![Step::Dispatch(scale(1000, 7, 3, 0, 1))] };
    gpu.run(&gpu.prepare(&recording, &buffers).unwrap()).unwrap();
    words(gpu, &buffers[1])
}

#[test]
fn the_fast_device_offers_what_the_ordinary_one_does() {
    let (Some(fast), Some(ordinary)) = (open(&[]), open(&["fast-device"])) else { return };
    assert!(!ordinary.caps().fast_device);
    assert_eq!(ordinary.switched_off(), ["fast-device"]);
    if !is_vulkan(&fast) {
        return;
    }
    assert!(fast.caps().fast_device);
    assert_eq!(fast.device.features(), ordinary.device.features());
    let (mut limits, least) = (fast.device.limits(), ordinary.device.limits());
    assert!(limits.max_storage_buffer_binding_size >= least.max_storage_buffer_binding_size);
    limits.max_storage_buffer_binding_size = least.max_storage_buffer_binding_size;
    assert_eq!(limits, least);
    assert_eq!(scaled(&fast), scaled(&ordinary));
}

#[test]
fn only_devices_of_our_own_are_fast() {
    let Some(gpu) = open(&["baseline"]) else { return };
    assert!(!gpu.caps().fast_device);
    assert!(!open_checked().unwrap().caps().fast_device);
}

#[test]
fn a_device_that_fails_its_trial_is_opened_the_ordinary_way() {
    let Some(fast) = open(&[]) else { return };
    let tried = std::cell::Cell::new(0);
    let trial = |gpu: &Arc<Gpu>| {
        assert!(gpu.caps().fast_device);
        tried.set(tried.get() + 1);
        Err(Error::device("a kernel computed 1 for 2"))
    };
    let gpu = Gpu::open_tried(&options(), &trial).unwrap();
    assert_eq!(tried.get() > 0, fast.caps().fast_device);
    assert!(!gpu.caps().fast_device);
    assert_eq!(scaled(&gpu), scaled(&fast));
}

#[cfg(target_os = "linux")]
#[test]
fn what_the_driver_refuses_is_an_error() {
    if open(&[]).is_none() {
        return;
    }
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let request = wgpu::RequestAdapterOptions::default();
    let adapter = pollster::block_on(instance.request_adapter(&request)).unwrap();
    let required_features = wgpu::Features::all().difference(adapter.features());
    let descriptor = wgpu::DeviceDescriptor { required_features, ..Default::default() };
    let e = super::vulkan::open(&adapter, &descriptor).unwrap_err();
    assert!(e.is_device() && e.to_string().contains("lacks"), "{e}");
}

#[test]
fn every_way_of_opening_gives_the_same_results() {
    let (Some(fast), Some(ordinary), Some(checked)) = (open(&[]), open(&["fast-device"]), open_checked())
    else {
        return;
    };
    for (name, cases) in crate::ops::ALL {
        for (i, case) in cases().into_iter().take(3).enumerate() {
            let trial = Trial::new(case, i as u64).unwrap();
            for (way, gpu) in [("fast", &fast), ("ordinary", &ordinary), ("checked", &checked)] {
                for kernel in trial.case.kernels(gpu.caps()) {
                    trial.gpu(gpu, &kernel).unwrap_or_else(|e| panic!("{name} on a {way} device: {e}"));
                }
            }
        }
    }
}

const BEYOND: File = File {
    name: "test/beyond.wgsl",
    text: "struct Params { n: u32 }
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@group(0) @binding(2) var<uniform> p: Params;
@compute @workgroup_size(1)
fn main() {
    for (var i = 0u; i < p.n; i++) { y[i] = max(x[i], 1u); }
}
",
};

#[test]
fn checked_kernels_stay_within_their_bindings() {
    let Some(gpu) = open_checked() else { return };
    const SECRET: u32 = 0xdead_beef;
    // Both show 64 words of 128, the kernel asks for 128.
    let secret: Vec<u32> = (0..128).map(|i| if i < 64 { 7 } else { SECRET }).collect();
    let buffers = [upload(&gpu, &secret), upload(&gpu, &[SECRET; 128])];
    let bind = |slot, write| Bind { slot, offset: 0, bytes: 256, write };
    let dispatch = Dispatch {
        name: "beyond".into(),
        source: link(&[&BEYOND], ""),
        constants: vec![],
        binds: vec![bind(0, false), bind(1, true)],
        params: vec![128],
        grid: [1, 1, 1],
    };
    let recording = Recording { buffers: vec![512, 512], steps: vec![Step::Dispatch(dispatch)] };
    gpu.run(&gpu.prepare(&recording, &buffers).unwrap()).unwrap();
    let y = words(&gpu, &buffers[1]);
    // A check may put what lies beyond into the last word.
    assert_eq!(y[..63], [7; 63]);
    assert!(y[63] != SECRET && y[64..].iter().all(|word| *word == SECRET), "{y:?}");
}

/// Runs `kernels` different kernels on a device that keeps pipelines in `folder`; the numbers compiled and
/// loaded.
fn run_kept(folder: &std::path::Path, kernels: u32) -> Option<(u64, u64)> {
    open(&[])?;
    let options = Options { pipeline_cache: Some(folder.into()), ..options() };
    let gpu = Gpu::open(&options).unwrap();
    let buffers = [upload(&gpu, &[5; 64]), gpu.alloc(256).unwrap()];
    let kernel = |i: u32| Dispatch {
        source: link(&[&super::tests::SCALE], &format!("const UNUSED = {i}u;")),
        ..scale(64, i, 1, 0, 1)
    };
    let steps = (0..kernels).map(|i| Step::Dispatch(kernel(i))).collect();
    gpu.run(&gpu.prepare(&Recording { buffers: vec![256, 256], steps }, &buffers).unwrap()).unwrap();
    assert_eq!(words(&gpu, &buffers[1]), [5 * (kernels - 1) + 1; 64]);
    Some((gpu.pipelines_compiled(), gpu.pipelines_loaded()))
}

#[test]
fn pipelines_are_kept_for_the_next_process() {
    let folder = tempfile::tempdir().unwrap();
    let Some((compiled, loaded)) = run_kept(folder.path(), 20) else { return };
    let Some(file) = std::fs::read_dir(folder.path()).unwrap().next() else {
        // Not Vulkan: the system keeps them.
        assert_eq!(loaded, 0);
        return;
    };
    // Kernels that try the device are more: one that reads past an end, one that multiplies matrices.
    let own = compiled - 20;
    assert!(own <= 2 && loaded == 0, "{compiled} compiled, {loaded} loaded");
    assert_eq!(run_kept(folder.path(), 20).unwrap(), (0, compiled));
    assert_eq!(run_kept(folder.path(), 22).unwrap(), (2, compiled));
    assert_eq!(run_kept(folder.path(), 22).unwrap(), (0, compiled + 2));
    let path = file.unwrap().path();
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(run_kept(folder.path(), 20).unwrap(), (compiled, 0), "a damaged file counts for nothing");
    assert_eq!(run_kept(folder.path(), 20).unwrap(), (0, compiled), "and is replaced");
}

#[test]
fn no_folder_is_no_trouble() {
    let folder = tempfile::tempdir().unwrap();
    let occupied = folder.path().join("occupied");
    std::fs::write(&occupied, "a file").unwrap();
    if let Some((compiled, loaded)) = run_kept(&occupied, 3) {
        assert!(compiled >= 3 && loaded == 0);
    }
}

#[test]
fn the_first_kernel_that_fails_is_named() {
    let Some(gpu) = open(&[]) else { return };
    let buffers = [gpu.alloc(256).unwrap(), gpu.alloc(256).unwrap()];
    let kernel = |i: u32| Dispatch {
        name: format!("number {i}"),
        source: link(&[&super::tests::SCALE], if i < 5 { "" } else { "fn wrong() -> u32 { return 1.5; }" }),
        constants: vec![("WG", f64::from(32 + i))],
        ..scale(64, i, 1, 0, 1)
    };
    let steps = (0..12).map(|i| Step::Dispatch(kernel(i))).collect();
    let e = gpu.prepare(&Recording { buffers: vec![256, 256], steps }, &buffers).unwrap_err();
    assert!(e.to_string().starts_with("kernel number 5: "), "{e}");
    let compiled = gpu.pipelines_compiled();
    let steps = (0..5).map(|i| Step::Dispatch(kernel(i))).collect();
    gpu.prepare(&Recording { buffers: vec![256, 256], steps }, &buffers).unwrap();
    assert_eq!(gpu.pipelines_compiled(), compiled, "those without fault are there");
}
