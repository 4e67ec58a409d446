//! Tests on a real adapter; the software one will do.
//!
//! Where there is none they are skipped (see [`or_skip`]). What moves bytes is tested twice: with mapped
//! buffers and through staging.

use std::sync::Arc;

use super::*;
use crate::error::Result;
use crate::wgsl::{File, link};

/// What the environment asks for; tests keep nothing for later.
pub(super) fn options() -> Options {
    Options { pipeline_cache: None, ..Options::from_env() }
}

/// A device of the test's own, with its own counters.
pub(super) fn open(disable: &[&str]) -> Option<Arc<Gpu>> {
    let mut options = Options { counters: Some(Arc::default()), pipeline_cache: None, ..Options::from_env() };
    options.disable.extend(disable.iter().map(|word| word.to_string()));
    or_skip(Gpu::open(&options))
}

/// The same test with mapped tensors and with staged ones.
fn both_ways(test: impl Fn(Arc<Gpu>)) {
    for disable in [&[][..], &["unified"]] {
        if let Some(gpu) = open(disable) {
            test(gpu);
        }
    }
}

pub(super) const SCALE: File = File {
    name: "test/scale.wgsl",
    text: "// y = a x + b
override WG: u32 = 64;
struct Params { n: u32, a: u32, b: u32 }
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@group(0) @binding(2) var<uniform> p: Params;
@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < p.n { y[id.x] = p.a * x[id.x] + p.b; }
}
",
};

pub(super) fn scale(n: u32, a: u32, b: u32, from: usize, to: usize) -> Dispatch {
    let bytes = u64::from(n) * 4;
    Dispatch {
        name: "scale".into(),
        source: link(&[&SCALE], ""),
        constants: vec![("WG", 32.0)],
        binds: vec![
            Bind { slot: from, offset: 0, bytes, write: false },
            Bind { slot: to, offset: 0, bytes, write: true },
        ],
        params: vec![n, a, b],
        grid: [n.div_ceil(32), 1, 1],
    }
}

pub(super) fn words(gpu: &Gpu, buffer: &Buffer) -> Vec<u32> {
    gpu.read_vec(buffer)
        .unwrap()
        .chunks_exact(4)
        .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect()
}

pub(super) fn upload(gpu: &Arc<Gpu>, data: &[u32]) -> Buffer {
    let buffer = gpu.alloc(data.len() as u64 * 4).unwrap();
    gpu.write(&buffer, 0, bytemuck::cast_slice(data)).unwrap();
    buffer
}

#[test]
fn odd_sizes_and_offsets_keep_their_neighbours() {
    both_ways(|gpu| {
        for size in [0_usize, 1, 2, 3, 4, 5, 7, 8, 9, 31, 257] {
            let buffer = gpu.alloc_zeroed(size as u64).unwrap();
            assert_eq!(buffer.bytes(), size as u64);
            let mut expected = vec![0_u8; size];
            for (round, offset) in [0, 1, 2, 3, 5, 6].into_iter().enumerate() {
                for length in [0, 1, 2, 3, 4, 6, 11] {
                    if offset + length > size {
                        let data = vec![0; length];
                        assert!(gpu.write(&buffer, offset as u64, &data).unwrap_err().is_input());
                        continue;
                    }
                    let data: Vec<u8> =
                        (0..length).map(|i| (40 * round + 7 * length + i) as u8 | 1).collect();
                    gpu.write(&buffer, offset as u64, &data).unwrap();
                    expected[offset..offset + length].copy_from_slice(&data);
                    assert_eq!(gpu.read_vec(&buffer).unwrap(), expected, "{size} {offset} {length}");
                    let mut part = vec![0; length];
                    gpu.read(&buffer, offset as u64, &mut part).unwrap();
                    assert_eq!(part, data);
                }
            }
        }
    });
}

#[test]
fn large_transfers_cross_staging_chunks() {
    both_ways(|gpu| {
        let size = (70 << 20) + 5;
        let buffer = gpu.alloc(size).unwrap();
        let byte = |at: u64| (at ^ (at >> 11) ^ (at >> 23)) as u8;
        let fill = |at: u64, bytes: &mut [u8]| -> Result<()> {
            bytes.iter_mut().enumerate().for_each(|(i, b)| *b = byte(at + i as u64));
            Ok(())
        };
        gpu.write_with(&buffer, 0, size, fill).unwrap();
        let back = gpu.read_vec(&buffer).unwrap();
        assert!(back.iter().enumerate().all(|(at, b)| *b == byte(at as u64)));
        // Again from the middle, with both edges inside words.
        gpu.write_with(&buffer, 3, size - 6, fill).unwrap();
        let back = gpu.read_vec(&buffer).unwrap();
        assert!(back[3..size as usize - 3].iter().enumerate().all(|(at, b)| *b == byte(at as u64)));
        assert!((0..3).all(|at| back[at as usize] == byte(at)));
        assert!((size - 3..size).all(|at| back[at as usize] == byte(at)));
    });
}

#[test]
fn a_failing_fill_leaves_a_usable_buffer() {
    both_ways(|gpu| {
        let buffer = gpu.alloc(64).unwrap();
        let broken = gpu.write_with(&buffer, 0, 64, |_, _| Err(crate::Error::io("disk on fire")));
        let e = broken.unwrap_err();
        assert!(e.is_io() && e.to_string().ends_with("disk on fire"), "{e}");
        gpu.write(&buffer, 0, &[7; 64]).unwrap();
        assert_eq!(gpu.read_vec(&buffer).unwrap(), [7; 64]);
    });
}

#[test]
fn unified_memory_is_never_staged() {
    let Some(gpu) = open(&[]) else { return };
    let x = upload(&gpu, &[1, 2, 3]);
    let y = gpu.alloc_zeroed(12).unwrap();
    let recording = Recording { buffers: vec![12, 12], steps: vec![Step::Dispatch(scale(3, 2, 1, 0, 1))] };
    gpu.run(&gpu.prepare(&recording, &[x, y.clone()]).unwrap()).unwrap();
    assert_eq!(words(&gpu, &y), [3, 5, 7]);
    match gpu.caps().unified {
        true => assert_eq!((gpu.staged_copies(), gpu.staged_bytes()), (0, 0)),
        false => assert!(gpu.staged_copies() >= 2 && gpu.staged_bytes() >= 24),
    }
    assert_eq!(gpu.memory_kind() == "unified", gpu.caps().unified);
}

#[test]
fn counters_are_exact_under_threads() {
    let Some(gpu) = open(&[]) else { return };
    gpu.set_cache_limit(1 << 20);
    let kept: u64 = std::thread::scope(|scope| {
        let work = |seed: u64| {
            let gpu = gpu.clone();
            move || {
                let mut live = Vec::new();
                for i in 0..1000 {
                    let size = (seed * 7919 + i * 104_729) % 10_000;
                    live.push(gpu.alloc(size).unwrap());
                    if i % 3 != 0 {
                        live.swap_remove(((seed + i) % live.len() as u64) as usize);
                    }
                    assert!(gpu.counters().peak() >= gpu.counters().active().min(1));
                }
                let kept = live.drain(..20).collect::<Vec<_>>();
                (kept.iter().map(Buffer::capacity).sum::<u64>(), kept)
            }
        };
        let threads: Vec<_> = (0..8).map(|seed| scope.spawn(work(seed))).collect();
        let kept: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
        let bytes = kept.iter().map(|(bytes, _)| bytes).sum();
        assert_eq!(gpu.counters().active(), bytes);
        bytes
    });
    assert!(kept > 0);
    let counters = gpu.counters();
    assert_eq!(counters.active(), 0);
    assert!(counters.peak() >= kept && counters.cache() <= 1 << 20);
    counters.reset_peak();
    assert_eq!(counters.peak(), 0);
    gpu.clear_cache();
    assert_eq!(counters.cache(), 0);
}

#[test]
fn freed_memory_is_reused_up_to_the_limit() {
    let Some(gpu) = open(&[]) else { return };
    let counters = gpu.counters();
    // Without what the kernels needed that tried the device.
    gpu.clear_cache();
    counters.reset_peak();
    drop(gpu.alloc(1000).unwrap());
    assert_eq!((counters.active(), counters.cache(), counters.peak()), (0, 1000, 1000));
    // Close enough: the old buffer, with its size.
    let again = gpu.alloc(900).unwrap();
    assert_eq!((again.bytes(), again.capacity()), (900, 1000));
    assert_eq!((counters.active(), counters.cache()), (1000, 0));
    drop(again);
    // Too small a request to spend it on.
    assert_eq!(gpu.alloc(600).unwrap().capacity(), 600);
    assert_eq!(counters.cache(), 1600);
    // Zeroed means zeroed, also when it was used before.
    let dirty = upload(&gpu, &[u32::MAX; 64]);
    drop(dirty);
    assert_eq!(words(&gpu, &gpu.alloc_zeroed(256).unwrap()), [0; 64]);

    gpu.clear_cache();
    assert_eq!(gpu.set_cache_limit(2000), 1 << 30);
    let three = [gpu.alloc(800).unwrap(), gpu.alloc(1000).unwrap(), gpu.alloc(1200).unwrap()];
    three.into_iter().for_each(drop);
    assert_eq!(counters.cache(), 1200, "the longest unused go first");
    gpu.set_cache_limit(0);
    assert_eq!((counters.cache(), counters.active()), (0, 0));
}

#[test]
fn an_oversized_buffer_is_an_error_with_both_sizes() {
    let Some(gpu) = open(&[]) else { return };
    for bytes in [gpu.caps().max_buffer.saturating_add(5), u64::MAX] {
        let e = gpu.alloc(bytes).unwrap_err();
        assert!(e.is_memory());
        assert!(e.to_string().contains(&bytes.to_string()), "{e}");
        assert!(e.to_string().contains(&(gpu.caps().max_buffer & !3).to_string()), "{e}");
    }
    assert_eq!(gpu.counters().active(), 0);
}

#[test]
fn a_recording_is_replayed_with_its_parameters() {
    both_ways(|gpu| {
        let n = 1000;
        let data: Vec<u32> = (0..n).collect();
        let buffers = [upload(&gpu, &data), gpu.alloc(4 * 1000).unwrap(), gpu.alloc(8).unwrap()];
        let recording = Recording {
            buffers: vec![4000, 4000, 8],
            steps: vec![
                Step::Dispatch(scale(n, 3, 1, 0, 1)),
                Step::Dispatch(scale(n, 2, 5, 1, 0)),
                Step::Copy { src: 0, src_offset: 400, dst: 2, dst_offset: 4, bytes: 4 },
                Step::Dispatch(scale(1, 1, 9, 0, 2)),
            ],
        };
        let prepared = gpu.prepare(&recording, &buffers).unwrap();
        assert_eq!((prepared.dispatches(), prepared.buffers().len()), (3, 3));
        gpu.run(&prepared).unwrap();
        gpu.run(&prepared.with_max_dispatches(1)).unwrap();
        gpu.wait().unwrap();
        let once = |x: u32| 2 * (3 * x + 1) + 5;
        let expected: Vec<u32> = data.iter().map(|&x| once(once(x))).collect();
        assert_eq!(words(&gpu, &buffers[0]), expected);
        assert_eq!(words(&gpu, &buffers[2]), [expected[0] + 9, expected[100]]);
    });
}

#[test]
fn results_are_read_back_without_a_submission() {
    both_ways(|gpu| {
        let buffers = [upload(&gpu, &[5, 6]), gpu.alloc(8).unwrap(), gpu.alloc_readback(8).unwrap()];
        let steps = vec![
            Step::Dispatch(scale(2, 10, 0, 0, 1)),
            Step::Copy { src: 1, src_offset: 0, dst: 2, dst_offset: 0, bytes: 8 },
        ];
        let prepared = gpu.prepare(&Recording { buffers: vec![8, 8, 8], steps }, &buffers).unwrap();
        gpu.run(&prepared).unwrap();
        let before = gpu.staged_copies();
        assert_eq!(words(&gpu, &buffers[2]), [50, 60]);
        assert_eq!(gpu.staged_copies(), before);
    });
}

#[test]
fn impossible_recordings_name_the_kernel() {
    let Some(gpu) = open(&[]) else { return };
    let buffers = [gpu.alloc(4096).unwrap(), gpu.alloc(4096).unwrap()];
    let refuse = |change: &dyn Fn(&mut Dispatch)| {
        let mut dispatch = scale(4, 1, 0, 0, 1);
        change(&mut dispatch);
        let recording = Recording { buffers: vec![4096, 4096], steps: vec![Step::Dispatch(dispatch)] };
        let e = gpu.prepare(&recording, &buffers).unwrap_err();
        assert!(e.to_string().starts_with("kernel scale: "), "{e}");
        e
    };
    let e = refuse(&|d| d.grid = [1, 65536, 1]);
    assert!(e.is_unsupported() && e.to_string().contains("65536"), "{e}");
    assert!(refuse(&|d| d.binds[0].offset = 4).is_unsupported());
    assert!(refuse(&|d| d.binds[0].bytes = 5000).is_input());
    assert!(refuse(&|d| d.binds[0].offset = u64::MAX - 3).is_input());
    assert!(refuse(&|d| d.binds[0].slot = 2).is_input());
    assert!(refuse(&|d| d.binds[0].slot = 1).to_string().contains("twice"));
    assert!(refuse(&|d| d.binds[0].write = true).to_string().contains("read_write"));
    assert!(refuse(&|d| d.binds.truncate(1)).to_string().contains("uniform"));
    assert!(refuse(&|d| d.params.clear()).to_string().contains("@binding(2)"));
    assert!(refuse(&|d| d.constants = vec![("WG", 4096.0)]).is_unsupported());
    assert!(refuse(&|d| d.constants = vec![("NONE", 1.0)]).to_string().contains("NONE"));
    let most = gpu.caps().workgroup_memory;
    let shared = File {
        name: "test/shared.wgsl",
        text: "override N: u32 = 4;
var<workgroup> s: array<u32, N>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(1) fn main() { s[0] = 1u; workgroupBarrier(); y[0] = s[0]; }
",
    };
    let e = refuse(&|d| {
        d.source = link(&[&shared], "");
        d.constants = vec![("N", f64::from(most / 4 + 1))];
    });
    assert!(e.is_unsupported() && e.to_string().contains("workgroup memory"), "{e}");
    // Nothing of this stays behind.
    let recording =
        Recording { buffers: vec![4096, 4096], steps: vec![Step::Dispatch(scale(4, 1, 0, 0, 1))] };
    gpu.run(&gpu.prepare(&recording, &buffers).unwrap()).unwrap();

    let copy = Step::Copy { src: 0, src_offset: 2, dst: 1, dst_offset: 0, bytes: 4 };
    let e = gpu.prepare(&Recording { buffers: vec![4096, 4096], steps: vec![copy] }, &buffers).unwrap_err();
    assert!(e.is_input() && e.to_string().starts_with("copy  0[2"), "{e}");
    assert!(gpu.prepare(&recording, &buffers[..1]).unwrap_err().is_input());
    let short = [gpu.alloc(8).unwrap(), buffers[1].clone()];
    assert!(gpu.prepare(&recording, &short).unwrap_err().to_string().contains("slot 0 needs 4096"));
}

#[test]
fn compile_errors_name_file_and_line() {
    let Some(gpu) = open(&[]) else { return };
    let buffers = [gpu.alloc(64).unwrap(), gpu.alloc(64).unwrap()];
    let compile = |files: &[&File]| {
        let dispatch = Dispatch { source: link(files, ""), ..scale(4, 1, 0, 0, 1) };
        let recording = Recording { buffers: vec![64, 64], steps: vec![Step::Dispatch(dispatch)] };
        gpu.prepare(&recording, &buffers).unwrap_err()
    };
    let syntax = File { name: "parts/syntax.wgsl", text: "\n\nfn part( -> f32 { return 1.0; }\n" };
    let types = File { name: "parts/types.wgsl", text: "\nfn part() -> f32 {\n    return 1u;\n}\n" };
    for (part, place) in [(&syntax, "wgsl/parts/syntax.wgsl:3: "), (&types, "wgsl/parts/types.wgsl:3: ")] {
        let e = compile(&[&SCALE, part]);
        assert!(e.is_device() && e.to_string().starts_with(&format!("kernel scale: {place}")), "{e}");
    }
}

#[test]
fn buffers_are_read_while_other_threads_compute() {
    both_ways(|gpu| {
        let x = upload(&gpu, &[1; 256]);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (gpu, x) = (&gpu, &x);
                scope.spawn(move || {
                    for round in 0..50 {
                        let y = gpu.alloc(1024).unwrap();
                        let add = thread * 1000 + round;
                        let steps = vec![Step::Dispatch(scale(256, 1, add, 0, 1))];
                        let recording = Recording { buffers: vec![1024, 1024], steps };
                        gpu.run(&gpu.prepare(&recording, &[x.clone(), y.clone()]).unwrap()).unwrap();
                        assert_eq!(words(gpu, x), [1; 256]);
                        assert_eq!(words(gpu, &y), [1 + add; 256]);
                    }
                });
            }
        });
    });
}

#[test]
fn the_baseline_is_enough() {
    let Some(gpu) = open(&["baseline"]) else { return };
    assert_eq!(gpu.caps().tiers(), [Tier::Baseline]);
    let Caps { unified, cores, .. } = *gpu.caps();
    let expected = Caps { unified, cores, ..Caps::BASELINE };
    assert_eq!(gpu.caps(), &expected);
    assert_eq!(gpu.switched_off().last().map(String::as_str), Some("baseline"));
    gpu.switch_off("matvec, subgroups: differs from the reference");
    assert!(gpu.switched_off().last().is_some_and(|s| s.starts_with("matvec")));
    assert_eq!(words(&gpu, &upload(&gpu, &[1, 2])), [1, 2]);
}

#[test]
fn an_application_hands_in_its_device() {
    if open(&[]).is_none() {
        return;
    }
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter =
        pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions::default())).unwrap();
    let (device, queue) =
        pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor::default())).unwrap();
    let gpu = Gpu::from_wgpu(&adapter, device, queue).unwrap();
    assert!(!gpu.caps().unified && !gpu.caps().f16, "its features are those of the device");
    let buffers = [upload(&gpu, &[1, 2, 3]), gpu.alloc(12).unwrap()];
    let recording = Recording { buffers: vec![12, 12], steps: vec![Step::Dispatch(scale(3, 2, 0, 0, 1))] };
    gpu.run(&gpu.prepare(&recording, &buffers).unwrap()).unwrap();
    assert_eq!(words(&gpu, &buffers[1]), [2, 4, 6]);
    let e = gpu.alloc(u64::MAX).unwrap_err();
    assert!(e.is_memory());
}

#[test]
fn a_missing_adapter_is_an_error() {
    let none = Options { backends: wgpu::Backends::empty(), ..Options::default() };
    let e = Gpu::open(&none).unwrap_err();
    assert!(e.is_device() && e.to_string().contains("no GPU adapter"), "{e}");
    let other = Options { adapter: Some("Voodoo 2".into()), ..Options::default() };
    let e = Gpu::open(&other).unwrap_err();
    assert!(e.is_device() && e.to_string().contains("no GPU adapter"), "{e}");
}

#[test]
fn a_wait_ends_and_work_goes_on() {
    if open(&[]).is_none() {
        return;
    }
    let timeout = std::time::Duration::from_millis(2);
    let gpu = Gpu::open(&Options { timeout, ..options() }).unwrap();
    let slow = File {
        name: "test/slow.wgsl",
        text: "@group(0) @binding(0) var<storage, read_write> y: array<u32>;
@group(0) @binding(1) var<uniform> rounds: u32;
@compute @workgroup_size(1)
fn main() {
    var x = rounds;
    for (var i = 0u; i < rounds; i++) { x = (x ^ (x >> 7u)) * 747796405u + i; }
    y[0] = x | 1u;
}
",
    };
    let buffer = gpu.alloc(4).unwrap();
    // More and more workgroups until the wait is late. (Mesa's software adapter ends a loop after 65535
    // rounds, so one workgroup cannot be slow.)
    let late = (4..16).find_map(|shift| {
        let dispatch = Dispatch {
            name: "slow".into(),
            source: link(&[&slow], ""),
            constants: vec![],
            binds: vec![Bind { slot: 0, offset: 0, bytes: 4, write: true }],
            params: vec![60_000],
            grid: [1 << shift, 16, 1],
        };
        let recording = Recording { buffers: vec![4], steps: vec![Step::Dispatch(dispatch)] };
        gpu.run(&gpu.prepare(&recording, std::slice::from_ref(&buffer)).unwrap()).unwrap();
        gpu.wait().err()
    });
    let e = late.unwrap();
    assert!(e.is_device() && e.to_string().contains("within 2ms"), "{e}");
    let start = std::time::Instant::now();
    while gpu.wait().is_err() {
        assert!(start.elapsed().as_secs() < 60);
    }
    assert!(words(&gpu, &buffer)[0] > 0);
}

#[test]
fn a_lost_device_is_an_error_from_then_on() {
    let Some(gpu) = open(&[]) else { return };
    let buffer = upload(&gpu, &[1, 2, 3]);
    gpu.device.destroy();
    for _ in 0..2 {
        assert!(gpu.alloc(8).is_err() || gpu.read_vec(&buffer).is_err());
        assert!(gpu.read_vec(&buffer).unwrap_err().is_device());
    }
}

#[test]
fn the_shared_device_is_one() {
    let (Ok(one), Ok(two)) = (Gpu::shared(), Gpu::shared()) else { return };
    assert!(Arc::ptr_eq(&one, &two));
    assert!(Arc::ptr_eq(one.counters(), counters()));
    assert!(one.measure_upload().unwrap() > 0.0);
}
