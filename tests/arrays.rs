//! Unified memory: arrays, devices, pools, counters.

use ndarray::{Array1, Array2};
use std::sync::Mutex;
use unimlx::internals::or_skip;
use unimlx::{ArrayShape, Device, Dtype, Gpu, MLXArray, MemoryPool, memory};

/// The counters are one per process: tests that compare them take turns with all others.
static COUNTERS: Mutex<()> = Mutex::new(());

fn turn() -> std::sync::MutexGuard<'static, ()> {
    COUNTERS.lock().unwrap_or_else(|e| e.into_inner())
}

fn gpu() -> bool {
    or_skip(Gpu::shared()).is_some()
}

fn devices() -> Vec<Device> {
    if gpu() { vec![Device::CPU, Device::GPU] } else { vec![Device::CPU] }
}

#[test]
fn test_array_creation() {
    let _turn = turn();
    let arr = MLXArray::new_cpu(vec![1.0, 2.0, 3.0, 4.0], ArrayShape::Shape1D(4));
    assert_eq!((arr.device(), arr.dtype(), arr.size(), arr.nbytes()), (Device::CPU, Dtype::F32, 4, 16));
    assert_eq!(arr.data(), [1.0, 2.0, 3.0, 4.0]);
    let other = MLXArray::new_gpu(vec![1.0; 6], ArrayShape::Shape2D(2, 3));
    assert_eq!(other.device() == Device::GPU, gpu());
    assert_ne!(arr.id(), other.id());
    assert_eq!(arr.clone().id(), arr.id());
}

#[test]
fn test_array_shape() {
    assert_eq!(ArrayShape::Shape1D(7).size(), 7);
    assert_eq!(ArrayShape::Shape2D(3, 4).size(), 12);
    assert_eq!(ArrayShape::Shape3D(2, 3, 4).dims(), [2, 3, 4]);
    assert_eq!(ArrayShape::Shape4D(2, 3, 4, 5).ndim(), 4);
    let _turn = turn();
    let arr = MLXArray::new_cpu(vec![0.0; 24], ArrayShape::Shape3D(2, 3, 4));
    assert_eq!(arr.shape(), ArrayShape::Shape3D(2, 3, 4));
    assert_eq!(arr.reshape(&[4, 6]).shape(), ArrayShape::Shape2D(4, 6));
}

#[test]
fn test_device_transfer() {
    let _turn = turn();
    let arr = MLXArray::new_cpu(vec![1.0, 2.0, 3.0], ArrayShape::Shape1D(3));
    let there = arr.to_device(Device::GPU);
    assert_eq!(there.device() == Device::GPU, gpu());
    let back = there.to_device(Device::CPU);
    assert_eq!((back.device(), back.data()), (Device::CPU, vec![1.0, 2.0, 3.0]));
    assert_eq!(arr.to_device(Device::CPU).id(), arr.id(), "already there: nothing to do");
    assert_eq!(arr.try_to_device(Device::GPU).is_ok(), gpu());
}

#[test]
fn test_data_preservation() {
    let _turn = turn();
    let mut odd: Vec<u32> =
        vec![0, 1, 0x8000_0000, 0x7f80_0000, 0xff80_0000, 0x7fc0_0001, 0xffff_ffff, 0x7f80_0001];
    odd.extend([0x007f_ffff, 0x8000_0001, 0x0080_0000]);
    for n in [0, 1, 2, 3, 63, 64, 65, 1000, 4097, 100_003] {
        let bits: Vec<u32> =
            (0..n).map(|i| odd.get(i).copied().unwrap_or((i as u32).wrapping_mul(2_654_435_761))).collect();
        let data = bits.iter().map(|&b| f32::from_bits(b)).collect();
        let arr = MLXArray::new_gpu(data, ArrayShape::Shape1D(n));
        let back: Vec<u32> = arr.data().iter().map(|x| x.to_bits()).collect();
        assert_eq!(back, bits, "{n} elements, NaN payloads, infinities and denormals included");
        let round: Vec<u32> =
            arr.to_device(Device::CPU).to_device(Device::GPU).data().iter().map(|x| x.to_bits()).collect();
        assert_eq!(round, bits);
    }
}

#[test]
fn test_array_from_ndarray() {
    let _turn = turn();
    let vector = Array1::from_vec(vec![1.5, -2.5, 3.5]);
    for device in devices() {
        let arr = MLXArray::from_array1(&vector, device);
        assert_eq!((arr.device(), arr.shape()), (device, ArrayShape::Shape1D(3)));
        assert_eq!(arr.to_array1().unwrap(), vector);
        assert!(arr.to_array2().unwrap_err().to_string().contains("[3]"));
    }
}

#[test]
fn test_array2_from_ndarray() {
    let _turn = turn();
    let matrix = Array2::from_shape_fn((3, 5), |(r, c)| (r * 10 + c) as f32);
    for device in devices() {
        assert_eq!(MLXArray::from_array2(&matrix, device).to_array2().unwrap(), matrix);
        let transposed = matrix.clone().reversed_axes();
        let arr = MLXArray::from_array2(&transposed, device);
        assert_eq!((arr.shape(), arr.to_array2().unwrap()), (ArrayShape::Shape2D(5, 3), transposed));
        assert!(arr.to_array1().is_err());
    }
}

#[test]
fn test_memory_pool() {
    let _turn = turn();
    let mut pool = MemoryPool::new(Device::CPU);
    assert!(pool.is_empty());
    let a = pool.allocate(vec![1.0; 100], ArrayShape::Shape1D(100));
    assert_eq!(pool.memory_usage(), 400);
    pool.allocate(vec![2.0; 6], ArrayShape::Shape2D(2, 3));
    assert_eq!((pool.memory_usage(), pool.len()), (424, 2));
    assert!(pool.try_allocate(vec![1.0], ArrayShape::Shape1D(2)).is_err());
    assert_eq!(pool.len(), 2, "what failed is not kept");
    pool.move_to_device(Device::GPU);
    assert_eq!(pool.device() == Device::GPU, gpu());
    assert!(pool.arrays().iter().all(|x| x.device() == pool.device()));
    assert_eq!((pool.memory_usage(), pool.arrays()[1].data()), (424, vec![2.0; 6]));
    pool.clear();
    assert_eq!((pool.memory_usage(), a.data()), (0, vec![1.0; 100]));
}

#[test]
fn test_device_names() {
    assert_eq!((Device::CPU.name(), Device::GPU.name()), ("CPU", "GPU"));
    assert_eq!(format!("{} {:?}", Device::CPU, Device::GPU), "CPU GPU");
}

#[test]
fn wrong_lengths_are_errors_that_name_both() {
    let e = MLXArray::try_new_cpu(vec![1.0; 3], ArrayShape::Shape2D(2, 2)).unwrap_err();
    assert!(e.is_input() && e.to_string().contains("[2, 2] has 4 elements, the data has 3"), "{e}");
    let e = MLXArray::try_new_cpu(vec![], ArrayShape::Shape2D(usize::MAX, 2)).unwrap_err();
    assert!(e.to_string().contains("more elements than a usize"), "{e}");
    assert!(MLXArray::from_bytes(&[1, 2, 3], &[1], Dtype::F16, Device::CPU).is_err());
}

#[test]
fn counters_are_exact_and_everything_is_freed() {
    let _turn = turn();
    for device in devices() {
        let before = memory::active_memory();
        let arr = MLXArray::new_cpu(vec![1.0; 1000], ArrayShape::Shape1D(1000)).to_device(device);
        assert_eq!(memory::active_memory() - before, 4000, "on {device}");
        let copies: Vec<_> = (0..10).map(|_| arr.clone()).collect();
        assert_eq!(memory::active_memory() - before, 4000, "clones share");
        drop((arr, copies));
        assert_eq!(memory::active_memory(), before, "on {device}");
    }
    memory::reset_peak_memory();
    let base = memory::active_memory();
    drop(MLXArray::new_cpu(vec![0.0; 5000], ArrayShape::Shape1D(5000)));
    assert_eq!(memory::peak_memory() - base, 20_000);
}

#[test]
fn freed_gpu_buffers_are_kept_up_to_the_limit() {
    let _turn = turn();
    if !gpu() {
        return;
    }
    memory::clear_cache();
    assert_eq!(memory::cache_memory(), 0);
    let make = || MLXArray::new_gpu(vec![1.0; 100_000], ArrayShape::Shape1D(100_000));
    drop(make());
    assert_eq!(memory::cache_memory(), 400_000);
    let again = make();
    assert_eq!(memory::cache_memory(), 0, "the buffer came back from the cache");
    let limit = memory::set_cache_limit(1000);
    drop(again);
    assert_eq!(memory::cache_memory(), 0, "too large to keep");
    memory::set_cache_limit(limit);
}

#[test]
fn many_threads_share_arrays_and_pools() {
    let _turn = turn();
    fn is_shared<T: Send + Sync + Clone>(_: &T) {}
    let device = *devices().last().unwrap();
    let arr =
        MLXArray::new_cpu((0..777).map(|i| i as f32).collect(), ArrayShape::Shape1D(777)).to_device(device);
    let pool = MemoryPool::new(device);
    is_shared(&arr);
    is_shared(&pool);
    let before = memory::active_memory();
    std::thread::scope(|scope| {
        for t in 0..8 {
            let (arr, mut pool) = (arr.clone(), pool.clone());
            scope.spawn(move || {
                for i in 0..20 {
                    let y = (&arr + (t * 20 + i) as f32) * 2.0;
                    assert_eq!(y.data()[776], 2.0 * (776 + t * 20 + i) as f32);
                    pool.allocate(vec![t as f32; 10], ArrayShape::Shape1D(10));
                }
            });
        }
    });
    assert_eq!((pool.len(), pool.memory_usage()), (160, 6400));
    drop(pool);
    assert_eq!(memory::active_memory(), before, "nothing is left behind");
}

#[test]
fn on_a_unified_adapter_nothing_is_staged() {
    let _turn = turn();
    if !gpu() || memory::kind().unwrap() != "unified" {
        return;
    }
    let before = memory::staged_copies();
    let arr = MLXArray::new_gpu(vec![3.0; 12_345], ArrayShape::Shape1D(12_345));
    assert_eq!((&arr * 2.0).data()[12_344], 6.0);
    assert_eq!(memory::staged_copies(), before, "written and read through the tensors' own mapping");
}

#[test]
fn lazy_formulas_run_where_their_operands_live() {
    let _turn = turn();
    for device in devices() {
        let x = MLXArray::new_cpu(vec![1.0, 4.0, 9.0], ArrayShape::Shape1D(3)).to_device(device);
        let y = (x.sqrt() + 1.0) / 2.0;
        assert_eq!((y.device(), format!("{y:?}").contains("lazy")), (device, true));
        y.eval();
        assert_eq!((y.data(), format!("{y:?}").contains("lazy")), (vec![1.0, 1.5, 2.0], false));
    }
}

/// Whoever stands on which side, borrowed or not.
#[test]
fn operators_take_arrays_and_numbers_on_both_sides() {
    let _turn = turn();
    for device in devices() {
        let x = MLXArray::new_cpu(vec![1.0, 2.0, 4.0], ArrayShape::Shape1D(3)).to_device(device);
        assert_eq!((1.0 - &x).data(), [0.0, -1.0, -3.0]);
        assert_eq!((8.0 / x.clone()).data(), [8.0, 4.0, 2.0]);
        assert_eq!((&x * (2.0 + &x)).data(), [3.0, 8.0, 24.0]);
        assert_eq!((-(x.clone() - &x) + x.clone()).data(), [1.0, 2.0, 4.0]);
        let signed = (&x - 3.0).astype(Dtype::I32);
        assert_eq!((&signed + &signed).data(), [-4.0, -2.0, 2.0]);
        assert_eq!((-&signed).maximum(&signed).data(), [2.0, 1.0, 1.0]);
        assert_eq!((&signed & &MLXArray::scalar_u32(3)).data(), [2.0, 3.0, 1.0]);
    }
}

#[test]
fn dtypes_round_trip_bit_for_bit() {
    let _turn = turn();
    for device in devices() {
        let halves: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for dtype in [Dtype::F16, Dtype::BF16] {
            let arr = MLXArray::from_bytes(&halves, &[1 << 16], dtype, device).unwrap();
            assert_eq!(arr.nbytes(), 2 << 16);
            let back = arr.to_device(Device::CPU).to_device(device).data();
            assert_eq!(back[0x3c00], if dtype == Dtype::F16 { 1.0 } else { f32::from_bits(0x3c00_0000) });
        }
        let ints = MLXArray::from_bytes(bytemuck::cast_slice(&[-5i32, 7]), &[2], Dtype::I32, device).unwrap();
        assert_eq!(ints.data(), [-5.0, 7.0]);
        assert_eq!(ints.astype(Dtype::F32).data(), [-5.0, 7.0]);
    }
}

#[test]
fn whole_numbers_become_floats_where_a_function_wants_them() {
    let _turn = turn();
    for device in devices() {
        let x = MLXArray::from_bytes(bytemuck::cast_slice(&[1u32, 4, 9]), &[3], Dtype::U32, device).unwrap();
        assert_eq!(x.sqrt().data(), [1.0, 2.0, 3.0]);
        assert_eq!((-&x).data(), [-1.0, -4.0, -9.0]);
        assert_eq!((&x / &x).data(), [1.0; 3]);
        assert_eq!(x.softmax(0).data(), x.astype(Dtype::F32).softmax(0).data());
        assert_eq!(x.astype(Dtype::U8).topk(2).data(), [9.0, 4.0]);
    }
}

#[test]
#[should_panic(expected = "slice of 18446744073709551615 from 1 on")]
fn slices_past_all_numbers_are_refused() {
    let _turn = turn();
    let _ = MLXArray::new_cpu(vec![1.0; 4], ArrayShape::Shape1D(4)).slice(0, 1, usize::MAX);
}

#[test]
#[should_panic(expected = "f32[1099511627776, 4194304] has more bytes than a usize can count")]
fn shapes_past_all_numbers_are_refused() {
    let _turn = turn();
    let _ = MLXArray::scalar(1.0).broadcast_to(&[1 << 40, 1 << 22]);
}

#[test]
#[should_panic(expected = "reshape [0] to [4294967296, 4294967296]")]
fn shapes_of_so_many_that_nothing_is_left_are_refused() {
    let _turn = turn();
    let _ = MLXArray::new_cpu(vec![], ArrayShape::Shape1D(0)).reshape(&[1 << 32, 1 << 32]);
}

#[test]
fn what_no_memory_holds_does_not_move() {
    let _turn = turn();
    for device in devices() {
        let e = MLXArray::iota(1 << 60).try_to_device(device).and_then(|x| x.try_eval()).unwrap_err();
        assert!(e.is_memory(), "{device}: {e}");
    }
}
