//! An op of one's own: a formula that says what it means, and a WGSL kernel that is faster.
//!
//! The crate's ops use the same trait. Without a GPU, or where no kernel fits, the formula runs.
//!
//! `cargo run --release --example custom_op`

use unimlx::{Arg, ArrayShape, Device, File, Kernel, MLXArray, Op, Site, Stage, Word};

/// Squared ReLU: `max(x, 0)^2`, scaled. The struct is the op's parameters.
#[derive(Debug)]
struct SquaredRelu {
    scale: f32,
}

static KERNEL: File = File {
    name: "squared_relu.wgsl",
    text: "
struct Params { scale: f32, n: u32 }
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < params.n {
        let positive = max(x[id.x], 0.0);
        y[id.x] = params.scale * positive * positive;
    }
}
",
};

impl Op for SquaredRelu {
    fn name(&self) -> &'static str {
        "squared_relu"
    }

    fn words(&self) -> Vec<Word> {
        vec![self.scale.into()]
    }

    fn meaning(&self, inputs: &[MLXArray]) -> MLXArray {
        inputs[0].maximum(&MLXArray::scalar(0.0)).square() * self.scale
    }

    fn kernels(&self, site: &Site<'_>) -> Vec<Kernel> {
        let n = site.output.size();
        if n.div_ceil(64) > 65535 {
            return Vec::new(); // one dimension of the grid is too short: let the formula run
        }
        let stage = Stage {
            files: vec![&KERNEL],
            reads: vec![Arg::Input(0)],
            writes: vec![Arg::Output],
            params: vec![("scale", self.scale.into()), ("n", n.into())],
            grid: [n.div_ceil(64) as u32, 1, 1],
            ..Stage::default()
        };
        vec![stage.into()]
    }
}

fn main() {
    let data: Vec<f32> = (-4..4).map(|i| i as f32).collect();
    for device in [Device::CPU, Device::GPU] {
        let x = MLXArray::new_cpu(data.clone(), ArrayShape::Shape1D(8)).to_device(device);
        let y = MLXArray::apply(SquaredRelu { scale: 0.5 }, &[&x]);
        println!("on the {}: {:?}", y.device(), y.data());
        assert_eq!(y.data(), [0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 2.0, 4.5]);
    }
}
