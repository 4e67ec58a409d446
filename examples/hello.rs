//! Arrays on two devices, lazily.
//!
//! `cargo run --release --example hello`

use unimlx::{ArrayShape, Device, MLXArray, MemoryPool};

fn main() {
    // Create an array on the CPU, move it to the GPU and back.
    let arr = MLXArray::new_cpu(vec![1.0, 2.0, 3.0, 4.0], ArrayShape::Shape1D(4));
    let gpu_arr = arr.to_device(Device::GPU);
    println!("the array lives on the {}", gpu_arr.device());
    assert_eq!(gpu_arr.to_device(Device::CPU).data(), vec![1.0, 2.0, 3.0, 4.0]);

    // A formula is a graph until somebody looks.
    let y = (&gpu_arr * 2.0 + 1.0).sqrt();
    println!("{y:?} -> {:?}", y.data());

    // A pool counts its arrays, and frees them together.
    let mut pool = MemoryPool::new(Device::CPU);
    pool.allocate(vec![1.0; 100], ArrayShape::Shape1D(100));
    println!("the pool holds {} bytes", pool.memory_usage());
}
