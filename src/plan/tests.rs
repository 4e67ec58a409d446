//! Plans against the interpreter: every primitive, every dtype, random formulas, fused and not.

use super::*;
use crate::array::{Device, MLXArray};
use crate::dtype::Dtype;
use crate::gpu::{Gpu, or_skip};
use crate::layout::ArrayShape;
use crate::prim::{FUNCTIONS, Typing};
use crate::reference::{self, Values};
use proptest::prelude::*;

/// The CPU, and the GPU if there is one.
pub(super) fn devices() -> Vec<Device> {
    [Device::CPU].into_iter().chain(or_skip(Gpu::shared()).map(|_| Device::GPU)).collect()
}

fn ramp(dims: &[usize], from: f32, step: f32) -> Vec<f32> {
    (0..dims.iter().product::<usize>()).map(|i| from + step * ((i * 37 + 11) % 101) as f32).collect()
}

pub(super) fn array(dims: &[usize], from: f32, step: f32, device: Device) -> MLXArray {
    MLXArray::new_cpu(ramp(dims, from, step), ArrayShape::from_dims(dims).unwrap()).to_device(device)
}

/// Evaluates on the array's device and compares with the definition.
#[track_caller]
pub(super) fn check(name: &str, x: &MLXArray, tolerance: f32) {
    check_planned(name, x, tolerance, 0.0, true);
}

/// The same, fused and not. An element may also be off by a part of the greatest: sums are by what they add up.
#[track_caller]
pub(super) fn check_both(name: &str, x: &MLXArray, tolerance: f32, of_greatest: f32) {
    for fuse in [true, false] {
        check_planned(name, x, tolerance, of_greatest, fuse);
    }
}

#[track_caller]
fn check_planned(name: &str, x: &MLXArray, tolerance: f32, of_greatest: f32, fuse: bool) {
    let expected = reference::eval(x).unwrap();
    let mut program = Program::with_fusion(std::slice::from_ref(x), fuse).unwrap();
    program.run().unwrap();
    let mut bytes = vec![0; x.nbytes()];
    program.read(0, &mut bytes).unwrap();
    match (expected, Values::from_bytes(&bytes, x.dtype())) {
        (Values::F(e), Values::F(g)) => {
            let sizes = e.iter().map(|e| e.abs()).filter(|e| e.is_finite());
            let slack = of_greatest * sizes.fold(0.0, f32::max);
            for (i, (e, g)) in e.iter().zip(&g).enumerate() {
                let off = (e - g).abs();
                let close =
                    off <= tolerance * (1.0 + e.abs()) + slack || e == g || (e.is_nan() && g.is_nan());
                assert!(
                    close,
                    "{name} on {}: element {i} is {g}, not {e}\n{}",
                    x.device(),
                    program.recording()
                );
            }
        }
        (e, g) => assert!(e == g, "{name} on {}: {g:?}, not {e:?}\n{}", x.device(), program.recording()),
    }
}

#[test]
fn every_function_means_the_same_everywhere() {
    for device in devices() {
        let dims = [3, 67];
        for row in FUNCTIONS {
            let float = !matches!(row.typing, Typing::Bits);
            if float {
                let a = array(&dims, 0.25, 0.031, device);
                let b = array(&dims, 2.5, -0.017, device);
                let inputs = if row.arity == 2 { vec![a, b] } else { vec![a] };
                check(
                    &format!("{:?}", row.fun),
                    &MLXArray::prim(crate::prim::Prim::Map(row.fun), inputs),
                    3e-6,
                );
            }
            if matches!(row.typing, Typing::Bits | Typing::Same | Typing::Compare) && row.arity == 2 {
                let a = MLXArray::iota(201) * 7.0;
                let a = a.astype(Dtype::U32);
                let b = MLXArray::iota(201).shr(&MLXArray::scalar_u32(2));
                let zero = array(&[1], 0.0, 0.0, device).astype(Dtype::U32);
                let (a, b) = (a | zero.broadcast_to(&[201]), b);
                check(
                    &format!("{:?} u32", row.fun),
                    &MLXArray::prim(crate::prim::Prim::Map(row.fun), vec![a, b]),
                    0.0,
                );
            }
        }
    }
}

#[test]
fn large_angles_keep_their_sine() {
    for device in devices() {
        let x = array(&[1001], -3.0e5, 6543.21, device);
        check("sin", &x.sin(), 2e-6);
        check("cos", &x.cos(), 2e-6);
    }
}

#[test]
fn views_gathers_and_folds() {
    for device in devices() {
        let x = array(&[4, 5, 6], -1.0, 0.1, device);
        check("transpose", &x.transpose(&[2, 0, 1]), 0.0);
        check("slice", &(x.slice(1, 1, 3) + 1.0), 0.0);
        check("slice alone", &x.slice(0, 2, 2), 0.0);
        check("reshape of transpose", &x.transpose(&[1, 0, 2]).reshape(&[5, 24]), 0.0);
        check("broadcast", &x.slice(1, 0, 1).broadcast_to(&[4, 3, 6]), 0.0);
        let at = MLXArray::from_u32(&[3, 0, 9, 1], &[2, 2]).unwrap();
        check("take 0", &x.take(&at, 0), 0.0);
        check("take 1", &x.take(&at, 1), 0.0);
        check("take 2", &(x.take(&at, 2) * 2.0), 0.0);
        for axis in 0..3 {
            check("sum", &x.sum(axis), 1e-6);
            check("max of square", &x.square().max(axis), 1e-6);
            check("min", &x.min(axis), 0.0);
            check("softmax", &x.softmax(axis), 1e-6);
        }
        check("argmax", &x.argmax(), 0.0);
        check("topk", &x.topk(4), 0.0);
        let rows = MLXArray::from_u32(&[7, 1], &[2]).unwrap();
        check("put", &x.put(&(x.slice(0, 0, 2) * 5.0), &rows), 1e-6);
        check("put halves", &x.astype(Dtype::F16).put(&x.slice(0, 1, 2), &rows), 0.0);
        let w = array(&[4, 6, 3], 0.5, -0.01, device);
        check("matmul", &x.matmul(&w), 1e-5);
        check("matmul of expressions", &(&x * 2.0).matmul(&(w.t().t() + 1.0)), 1e-5);
        check("scalar", &(MLXArray::scalar(2.0) * 3.0).broadcast_to(&[5]), 0.0);
        check("infinity", &x.where_(&x.less(&MLXArray::scalar(0.0)), &MLXArray::scalar(f32::INFINITY)), 0.0);
    }
}

#[test]
fn narrow_dtypes_round_to_nearest_even() {
    for device in devices() {
        for n in [1, 2, 7, 300] {
            let x = array(&[n], -3.3, 0.123_456, device);
            for dtype in [Dtype::F16, Dtype::BF16] {
                check("narrow", &x.astype(dtype), 0.0);
                check("narrow and back", &(x.astype(dtype).astype(Dtype::F32) + 1.0), 1e-7);
                let stored = x.astype(dtype);
                stored.eval();
                check("stored narrow", &(stored * 2.0), 1e-7);
                let odd = [65519.0, 65520.0, -1e9, 6.1e-5, 6.0e-8, 2.0e-8, -3.1e-5, f32::INFINITY, 0.0, -0.0];
                let odd = MLXArray::new_cpu(odd.to_vec(), ArrayShape::Shape1D(odd.len())).to_device(device);
                check("narrow at the edges", &odd.astype(dtype), 0.0);
            }
        }
    }
}

#[test]
fn empty_arrays_evaluate() {
    for device in devices() {
        let x = array(&[0], 0.0, 0.0, device);
        assert_eq!((&x + 1.0).data(), Vec::<f32>::new());
        let x = array(&[3, 0], 0.0, 0.0, device);
        assert_eq!(x.sum(1).data(), [0.0; 3]);
    }
}

/// The end of an array is a place, too.
#[test]
fn slices_of_nothing_lie_anywhere() {
    for device in devices() {
        let x = array(&[64], 0.0, 1.0, device);
        let none = MLXArray::from_bytes(&[], &[100, 0], Dtype::F32, device).unwrap();
        for (name, y) in [("end", x.slice(0, 64, 0)), ("empty", none.slice(0, 64, 36).reshape(&[0]))] {
            let sum = y.sum(0);
            super::eval(&[&y, &sum]).unwrap();
            assert_eq!((y.data(), sum.data()), (vec![], vec![0.0]), "{name} on {device}");
        }
        let columns = array(&[0, 3], 0.0, 1.0, device).transpose(&[1, 0]);
        assert_eq!(columns.matmul(&none.t().slice(1, 2, 2)).data(), [0.0; 6], "{device}");
        assert_eq!(none.t().slice(1, 2, 5).sum(0).data(), [0.0; 5], "{device}");
    }
}

#[test]
fn a_program_reads_its_leaves_anew() {
    for device in devices() {
        let x = MLXArray::mutable(&[3], Dtype::F32, device).unwrap();
        let mut program = Program::new(&[&x * 2.0]).unwrap();
        for value in [1.0f32, 5.0] {
            x.overwrite(bytemuck::cast_slice(&[value; 3])).unwrap();
            program.run().unwrap();
            let mut out = [0f32; 3];
            program.read(0, bytemuck::cast_slice_mut(&mut out)).unwrap();
            assert_eq!(out, [2.0 * value; 3]);
        }
        assert!(x.overwrite(&[0; 16]).is_err());

        let cache = MLXArray::mutable(&[4, 2], Dtype::F32, device).unwrap();
        let row = MLXArray::new_cpu(vec![7.0, 8.0], ArrayShape::Shape2D(1, 2)).to_device(device);
        let at = MLXArray::from_u32(&[2], &[1]).unwrap();
        let mut program = Program::new(&[cache.put(&row, &at).sum(0)]).unwrap();
        program.run().unwrap();
        assert_eq!(cache.data(), [0.0, 0.0, 0.0, 0.0, 7.0, 8.0, 0.0, 0.0], "written in place on {device}");
    }
}

#[test]
fn ten_ops_are_one_dispatch() {
    if !devices().contains(&Device::GPU) {
        return;
    }
    let x = array(&[1000], -1.0, 0.02, Device::GPU);
    let chain = (((&x * 2.0 + 1.0).exp().sqrt() - 0.5).abs() + 0.1).log().tanh() * 3.0;
    let program = Program::new(&[chain]).unwrap();
    assert_eq!(program.recording().lines().count(), 1, "{}", program.recording());
}

/// Values that do not live at the same time share a buffer.
#[test]
fn equal_graphs_have_one_plan_and_few_buffers() {
    for device in devices() {
        let chain = |m: usize, from: f32| {
            let w = array(&[9, 9], 0.1, 0.001, device);
            (0..8).fold(array(&[m, 9], from, 0.01, device), |x, _| x.matmul(&w).tanh())
        };
        let plan = |x: &MLXArray| super::program::plan(std::slice::from_ref(x), device, true).unwrap().0;
        let (one, same, other) = (plan(&chain(5, 0.3)), plan(&chain(5, -1.0)), plan(&chain(6, 0.3)));
        assert!(std::sync::Arc::ptr_eq(&one, &same) && !std::sync::Arc::ptr_eq(&one, &other));
        check("a chain of products", &chain(5, 0.3), 1e-5);
        if device == Device::GPU {
            let recording = Program::new(&[chain(5, 0.3)]).unwrap().recording();
            let written: std::collections::BTreeSet<&str> = recording
                .lines()
                .filter_map(|step| step.split("-> ").nth(1)?.split_whitespace().next())
                .collect();
            assert!(recording.lines().count() == 8 && written.len() <= 3, "{recording}");
        }
    }
}

#[test]
fn what_follows_a_fold_ends_its_kernel() {
    for device in devices() {
        let (x, w) = (array(&[5, 33], -1.0, 0.02, device), array(&[33, 9], 0.4, -0.01, device));
        let bias = array(&[9], 0.2, 0.03, device);
        let y = x.matmul(&w);
        let cases = [
            ("a norm's factor", (x.square().sum(1) * (1.0 / 33.0) + 1e-5).rsqrt(), 1),
            ("a product, bias and activation", (&y + &bias).tanh() * 2.0, 1),
            ("a sum of other rows", (&x * 2.0).sum(1) + (&x * 3.0).max(1), 2),
            ("transposed afterwards", y.t() + 1.0, 2),
            ("used twice", &y * &y, 2),
            ("other numbers", y.less(&MLXArray::scalar(0.3)), 1),
        ];
        for (name, x, steps) in cases {
            check(name, &x, 1e-5);
            if device == Device::GPU {
                let program = Program::new(&[x]).unwrap();
                assert_eq!(program.recording().lines().count(), steps, "{name}: {}", program.recording());
            }
        }
    }
}

#[test]
fn a_deep_chain_neither_overflows_nor_binds_too_much() {
    let mut x = array(&[8], 0.0, 0.01, Device::CPU);
    for _ in 0..20_000 {
        x = x + 1e-4;
    }
    assert!((x.data()[0] - 2.11).abs() < 1e-2);
    for device in devices() {
        let parts: Vec<MLXArray> = (0..12).map(|i| array(&[9, 5], i as f32, 0.1, device)).collect();
        let sum = parts.iter().skip(1).fold(parts[0].clone(), |a, b| a + b);
        check("twelve inputs", &sum, 1e-6);
        check("and a fold", &sum.sum(1), 1e-6);
    }
}

/// A formula grown from random numbers: each picks an operation and operands among what is there.
fn grow(choices: &[(u8, u8, u8)], device: Device) -> MLXArray {
    let mut pool = vec![array(&[6, 7], -2.0, 0.05, device), array(&[6, 7], 0.3, 0.02, device)];
    for &(what, a, b) in choices {
        let (a, b) = (&pool[a as usize % pool.len()], &pool[b as usize % pool.len()]);
        let next = match what % 14 {
            0 => a + b,
            1 => a * b,
            2 => a - b,
            3 => (a.abs() + 1.0).log(),
            4 => a.t().reshape(&[6, 7]),
            5 => a - &a.max(1),
            6 => a.where_(&a.less(b), b),
            7 => a.slice(1, 2, 1).broadcast_to(&[6, 7]) + b,
            8 => a.take(&MLXArray::from_u32(&[5, 1, 1, 0, 8, 2], &[6]).unwrap(), 0),
            9 => a.tanh(),
            10 => a.softmax(0),
            11 => (a.sum(1) * 0.1 + 0.3).tanh().broadcast_to(&[6, 7]) * b,
            12 => (a.matmul(&b.t()) + 1.0).tanh().matmul(b) * 0.2 + a,
            _ => a.matmul(&b.t()).matmul(b).tanh(),
        };
        pool.push(next);
    }
    pool.pop().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn random_formulas_agree(choices in prop::collection::vec(any::<(u8, u8, u8)>(), 1..14)) {
        for device in devices() {
            check_both("random", &grow(&choices, device), 2e-4, 0.0);
        }
    }
}

/// Somebody's op, called as one that is here.
#[derive(Debug)]
struct Namesake;

impl crate::op::Op for Namesake {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn words(&self) -> Vec<crate::op::Word> {
        Vec::new()
    }

    fn meaning(&self, inputs: &[MLXArray]) -> MLXArray {
        &inputs[0] + 1.0
    }
}

#[test]
fn ops_of_one_name_are_not_mixed_up() {
    for device in devices() {
        let x = array(&[3, 5], -1.0, 0.3, device);
        check("softmax", &MLXArray::apply(crate::ops::Softmax, &[&x]), 1e-5);
        check("its namesake", &MLXArray::apply(Namesake, &[&x]), 0.0);
    }
}

#[test]
fn single_sums_go_on_in_any_shape() {
    for device in devices() {
        let x = array(&[1, 5], -1.0, 0.01, device);
        check("sum", &(x.reshape(&[5]).sum(0).reshape(&[]) + 1.0), 1e-5);
        check("mean", &x.square().mean(1).reshape(&[]).sqrt(), 1e-5);
        check("turned", &(x.sum(1).t() + 1.0), 1e-5);
        check("product", &(x.matmul(&x.t()).reshape(&[]) * 2.0), 1e-5);
        check("argmax", &x.reshape(&[5]).argmax().astype(Dtype::F32), 0.0);
        let again = x.sum(1).reshape(&[1]);
        check("sum, seen by two", &again.softmax(0), 1e-5);
        check("sum, by a sum and a chain", &(&again.square() + &again.exp().sum(0)), 1e-5);
    }
}

#[test]
fn zeros_divide_as_they_do_elsewhere() {
    for device in devices() {
        let x = MLXArray::new_cpu(vec![1.0, -1.0, 0.0], ArrayShape::Shape1D(3)).to_device(device);
        let y = (&x / 0.0).data();
        assert!(y[0] == f32::INFINITY && y[1] == f32::NEG_INFINITY && y[2].is_nan(), "{device}: {y:?}");
        let y = (0.0 / &x).data();
        assert!(y[0] == 0.0 && y[1] == 0.0 && y[2].is_nan(), "{device}: {y:?}");
    }
}

#[test]
fn more_main_memory_than_there_is_is_an_error() {
    let Some(free) = crate::memory::host_memory() else { return };
    let e = MLXArray::mutable(&[free as usize / 2], Dtype::F32, Device::CPU).unwrap_err();
    assert!(e.is_memory() && e.to_string().contains("main memory"), "{e}");
}
