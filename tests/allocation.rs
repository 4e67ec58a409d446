//! A token costs no allocation on the CPU, and no new buffer or bind group on the GPU, once everything is warm.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use unimlx::internals::or_skip;
use unimlx::{Device, GenerateOptions, Generator, Gpu, LoadOptions, Model};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Allocations are counted for the whole process: tests take turns.
static TURN: Mutex<()> = Mutex::new(());

#[test]
fn a_token_costs_no_allocation() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/storyteller");
    let model =
        Model::load(folder, LoadOptions { device: Some(Device::CPU), ..LoadOptions::default() }).unwrap();
    for temperature in [0.0, 0.8] {
        let options = GenerateOptions {
            max_tokens: Some(100),
            temperature,
            top_k: 40,
            top_p: 0.9,
            ignore_eos: true,
            ..GenerateOptions::default()
        };
        let mut generator = Generator::new(&model, None);
        generator.prompt(&[5, 6, 7], options).unwrap();
        assert_eq!(generator.by_ref().take(20).count(), 20);
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        assert_eq!(generator.by_ref().take(60).count(), 60);
        let count = ALLOCATIONS.load(Ordering::Relaxed) - before;
        assert_eq!(count, 0, "60 tokens at temperature {temperature}");
    }
}

#[test]
fn a_token_makes_no_gpu_object() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let Some(gpu) = or_skip(Gpu::shared()) else { return };
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/llama/model");
    let model =
        Model::load(folder, LoadOptions { device: Some(Device::GPU), ..LoadOptions::default() }).unwrap();
    for (temperature, repetition_penalty) in [(0.0, 1.0), (0.8, 1.2)] {
        let options = GenerateOptions {
            max_tokens: Some(100),
            temperature,
            top_k: 40,
            repetition_penalty,
            ignore_eos: true,
            ..GenerateOptions::default()
        };
        let mut generator = Generator::new(&model, None);
        generator.prompt(&[5, 6, 7], options).unwrap();
        assert_eq!(generator.by_ref().take(10).count(), 10);
        let before = (gpu.objects_made(), gpu.staged_copies());
        assert_eq!(generator.by_ref().take(60).count(), 60);
        assert_eq!((gpu.objects_made(), gpu.staged_copies()), before, "temperature {temperature}");
    }
}
