//! Gated activation: `act(g) * u`.

use super::kernel::{ACT, ERF, must_be, spread};
use crate::array::MLXArray;
use crate::cpu;
use crate::dtype::Dtype;
use crate::op::{Arg, Case, CpuKernel, Fill, Kernel, Op, Site, Spec, Stage, Word};
use crate::wgsl::{File, wgsl};
use std::sync::Arc;

static GATE: File = wgsl!("gate.wgsl");

/// The activation of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GateKind {
    /// `x / (1 + exp(-x))`
    Silu,
    /// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))`
    GeluTanh,
    /// `x / 2 * (1 + erf(x / sqrt(2)))`
    Gelu,
}

/// `[g, u] -> act(g) * u`, both of any one shape, f32.
#[derive(Clone, Debug)]
pub struct Gate {
    /// The activation.
    pub kind: GateKind,
}

impl Op for Gate {
    fn name(&self) -> &'static str {
        "gate"
    }

    fn words(&self) -> Vec<Word> {
        vec![Word::U32(self.kind as u32)]
    }

    fn meaning(&self, inputs: &[MLXArray]) -> MLXArray {
        let (g, u) = (&inputs[0], &inputs[1]);
        must_be(Dtype::F32, "gate", &[g, u]);
        assert_eq!(g.dims(), u.dims(), "gate of {} and {}", g.spec(), u.spec());
        let half_plus = |x: MLXArray| &(g * 0.5) * &(x + 1.0);
        let act = match self.kind {
            GateKind::Silu => g * &g.sigmoid(),
            GateKind::GeluTanh => {
                let cube = &g.square() * g;
                let root = (2.0 / std::f32::consts::PI).sqrt();
                half_plus((&(g + &(cube * 0.044_715)) * root).tanh())
            }
            GateKind::Gelu => half_plus((g * std::f32::consts::FRAC_1_SQRT_2).erf()),
        };
        &act * u
    }

    fn kernels(&self, site: &Site<'_>) -> Vec<Kernel> {
        let n = site.output.size();
        let (grid, stride) = spread(n.div_ceil(256));
        let stage = Stage {
            name: "gate",
            files: vec![&GATE, &ACT, &ERF],
            constants: vec![("ACT", f64::from(self.kind as u32))],
            reads: vec![Arg::Input(0), Arg::Input(1)],
            writes: vec![Arg::Output],
            params: vec![("n", n.into()), ("stride", stride)],
            grid,
            ..Stage::default()
        };
        vec![stage.into()]
    }

    fn cpu(&self, _inputs: &[Spec]) -> Option<CpuKernel> {
        let kind = match self.kind {
            GateKind::Silu => cpu::Gate::Silu,
            GateKind::GeluTanh => cpu::Gate::GeluTanh,
            GateKind::Gelu => cpu::Gate::Gelu,
        };
        Some(Box::new(move |x, mut y| cpu::gate(kind, x[0].as_slice(), x[1].as_slice(), y.as_mut_slice())))
    }
}

/// Sizes worth testing.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in [GateKind::Silu, GateKind::GeluTanh, GateKind::Gelu] {
        for dims in [[1, 512], [7, 33]] {
            let x = Fill::Normal(Spec::new(&dims, Dtype::F32));
            cases.push(Case { op: Arc::new(Gate { kind }), inputs: vec![x.clone(), x], reduction: 1 });
        }
    }
    cases
}
