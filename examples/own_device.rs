//! An application that has a `wgpu::Device` already lends it to the engine.
//!
//! `cargo run --release --example own_device`

use unimlx::{ArrayShape, Device, Gpu, MLXArray, wgpu};

fn main() -> unimlx::Result<()> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions::default()));
    let Ok(adapter) = adapter else {
        println!("no adapter: nothing to lend");
        return Ok(());
    };
    // Whatever the application needs; the engine uses what it finds on the device.
    let descriptor = wgpu::DeviceDescriptor {
        required_features: adapter.features() & (wgpu::Features::SUBGROUP | wgpu::Features::SHADER_F16),
        required_limits: adapter.limits(),
        ..wgpu::DeviceDescriptor::default()
    };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))
        .map_err(|e| unimlx::Error::device(format!("{}: {e}", adapter.get_info().name)))?;

    // Before the first array goes to the GPU.
    Gpu::from_wgpu(&adapter, device.clone(), queue.clone())?.install()?;

    let x = MLXArray::new_gpu(vec![1.0, 2.0, 3.0], ArrayShape::Shape1D(3));
    assert_eq!(x.device(), Device::GPU);
    println!("computed on the application's own {}: {:?}", adapter.get_info().name, (x * 2.0).data());
    Ok(())
}
