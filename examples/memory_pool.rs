//! A pool of arrays that moves between devices, and what the engine counts meanwhile.
//!
//! `cargo run --release --example memory_pool`

use unimlx::{ArrayShape, Device, MemoryPool, memory};

fn main() -> unimlx::Result<()> {
    let mut pool = MemoryPool::new(Device::CPU);
    for layer in 0..8 {
        pool.try_allocate(vec![layer as f32; 1 << 18], ArrayShape::Shape2D(512, 512))?;
    }
    let report = |pool: &MemoryPool, what: &str| {
        println!(
            "{what:<10} {} arrays on the {}: {} bytes; engine: active {}, peak {}, cache {}",
            pool.len(),
            pool.device(),
            pool.memory_usage(),
            memory::active_memory(),
            memory::peak_memory(),
            memory::cache_memory()
        );
    };
    report(&pool, "allocated");
    pool.move_to_device(Device::GPU); // stays on the CPU where there is no GPU
    report(&pool, "moved");
    assert_eq!(pool.arrays()[7].data()[0], 7.0);
    pool.clear();
    report(&pool, "cleared");
    memory::clear_cache();
    report(&pool, "emptied");
    Ok(())
}
