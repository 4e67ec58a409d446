//! What `examples/fusion.rs` claims: ten operations are one dispatch, and ten without fusion. A file of its
//! own, because the switch is the process's.

#[path = "../examples/fusion.rs"]
#[expect(dead_code, reason = "its `main` is for people")]
mod example;

use unimlx::internals::or_skip;
use unimlx::{ArrayShape, Gpu, MLXArray, set_fusion};

#[test]
fn ten_operations_are_one_dispatch() {
    let data: Vec<f32> = (0..1000).map(|i| i as f32 / 250.0 - 2.0).collect();
    let x = MLXArray::new_gpu(data.clone(), ArrayShape::Shape1D(1000));
    if or_skip(Gpu::shared()).is_none() {
        return;
    }
    let expected: Vec<f64> = data.iter().map(|&x| formula(f64::from(x))).collect();
    for (fuse, dispatches) in [(true, 1), (false, 10)] {
        set_fusion(fuse);
        let y = example::chain(&x);
        let recording = y.recording().unwrap();
        assert_eq!(recording.lines().count(), dispatches, "fusion {fuse}:\n{recording}");
        for (y, expected) in y.data().iter().zip(&expected) {
            assert!((f64::from(*y) - expected).abs() < 1e-5, "fusion {fuse}: {y}, expected {expected}");
        }
    }
}

/// The same in f64.
fn formula(x: f64) -> f64 {
    let wave = (x * 0.5 + 1.0).sin();
    ((wave * x.exp()).abs() + 1.0).sqrt().tanh() - 0.25
}
