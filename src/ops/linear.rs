//! `y = x W^T + b` with the weight as the file stores it, and what often stands around it: a norm of `x` before,
//! a gate and a residual sum after.

use super::gate::{Gate, GateKind};
use super::kernel::{ACT, ERF, FLOATS, PACK, kind, must_be};
use super::matmul::{Epilogue, Matmul};
use super::matmul_tile::{Matrices, sizes};
use super::rms_norm::RmsNorm;
use super::weight::{Format, floats};
use super::{matvec, matvec_rows, matvec_several};
use crate::array::MLXArray;
use crate::cpu;
use crate::dtype::Dtype;
use crate::op::{Arg, Case, CpuKernel, Fill, Kernel, Op, Site, Spec, Word};
use crate::wgsl::{File, wgsl};
use std::sync::Arc;

static BIAS: File = wgsl!("parts/bias.wgsl");
static NO_BIAS: File = wgsl!("parts/no_bias.wgsl");
static RESIDUAL: File = wgsl!("parts/residual.wgsl");
static NO_RESIDUAL: File = wgsl!("parts/no_residual.wgsl");
static EMIT: File = wgsl!("parts/emit.wgsl");

/// Rows of `x` up to which every weight is read once for all of them.
pub(crate) const FEW: usize = 8;
/// The same where there are matrix units, which are faster from one more row on: for packed weights that no integer
/// products take, and for dense ones of which registers do not hold `x` (matvec_several). On an NVIDIA H100 a step of an
/// 8B model of 4 bits takes row by row 4.6 ms for 2 rows, 6.8 for 3 and 8.8 for 5, by matrix units 6.6 to 7.0 for 2 to 8;
/// of bf16 7.8 for 3, 8.6 for 4 and 9.9 for 5 row by row, by matrix units 9.2 to 9.4.
const FEW_PACKED: usize = 3;
const FEW_DENSE: usize = 4;

/// `[x [m, k] f32, gain [k] if normed, weight.., bias [n] if any, r [m, n'] f32 if residual] -> [m, n']`
///
/// `y = norm(x) W^T + b`; gated, its first half of columns is the gate of the second, and `n' = n / 2`;
/// last, `r` is added. The weight's inputs are as [`Format`] says.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// How the weight is stored.
    pub format: Format,
    /// Whether a bias is added.
    pub bias: bool,
    /// Whether `x` is RMS-normed first, with which epsilon.
    pub norm: Option<f32>,
    /// Whether the result is gated.
    pub gate: Option<GateKind>,
    /// Whether a residual is added.
    pub residual: bool,
}

/// Where each input is.
pub(super) struct Places {
    pub(super) gain: Option<usize>,
    pub(super) weight: usize,
    pub(super) bias: Option<usize>,
    pub(super) residual: Option<usize>,
    pub(super) count: usize,
}

impl Linear {
    /// `y = x W^T`, plus a bias if there is one.
    pub fn new(format: Format, bias: bool) -> Self {
        Self { format, bias, norm: None, gate: None, residual: false }
    }

    pub(super) fn places(&self) -> Places {
        let mut count = 1;
        let mut next = |inputs: usize, there: bool| {
            let at = count;
            count += if there { inputs } else { 0 };
            there.then_some(at)
        };
        let gain = next(1, self.norm.is_some());
        let weight = next(self.format.inputs(), true).unwrap_or(1);
        let bias = next(1, self.bias);
        let residual = next(1, self.residual);
        Places { gain, weight, bias, residual, count }
    }

    /// What becomes of each sum.
    pub(super) fn epilogue(&self, site: &Site<'_>) -> Epilogue {
        let Places { bias, residual, .. } = self.places();
        let mut epilogue = Epilogue {
            files: vec![
                &EMIT,
                if bias.is_some() { &BIAS } else { &NO_BIAS },
                if residual.is_some() { &RESIDUAL } else { &NO_RESIDUAL },
                &ACT,
                &ERF,
                &FLOATS,
                &PACK,
            ],
            constants: vec![("ACT", self.gate.map_or(0.0, |kind| f64::from(kind as u32)))],
            reads: Vec::new(),
            gated: self.gate.is_some(),
        };
        if let Some(bias) = bias {
            epilogue.constants.push(("BIAS", kind(site.inputs[bias].dtype)));
            epilogue.reads.push(("bias", "array<u32>", Arg::Input(bias)));
        }
        if let Some(residual) = residual {
            epilogue.reads.push(("residual", "array<f32>", Arg::Input(residual)));
        }
        epilogue
    }

    /// Whether rows of `x` are so few that each is summed by itself. Matrix units take more of them at once.
    fn is_few(&self, site: &Site<'_>) -> bool {
        let units = Matrices::of(site.caps).is_some_and(|matrices| matrices.edge == 16);
        let few = match self.format {
            _ if !units || self.weight(site.inputs)[0].dtype == Dtype::F32 => FEW,
            Format::Dense => FEW_DENSE,
            Format::Affine { .. } => FEW_PACKED,
        };
        site.inputs[0].axis(2) <= few
    }

    /// The specs of the weight among those of the inputs.
    pub(super) fn weight<'a>(&self, inputs: &'a [Spec]) -> &'a [Spec] {
        &inputs[self.places().weight..][..self.format.inputs()]
    }
}

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn words(&self) -> Vec<Word> {
        let mut words = self.format.words();
        words.extend([Word::U32(self.bias.into()), Word::U32(self.residual.into())]);
        words.push(Word::U32(self.gate.map_or(0, |kind| 1 + kind as u32)));
        words.extend(self.norm.map(Word::F32));
        words
    }

    fn meaning(&self, inputs: &[MLXArray]) -> MLXArray {
        let places = self.places();
        assert_eq!(inputs.len(), places.count, "inputs of {self:?}");
        must_be(Dtype::F32, "linear", &[&inputs[0]]);
        assert_eq!(inputs[0].dims().len(), 2, "linear of {}", inputs[0].spec());
        let x = match self.norm.zip(places.gain) {
            Some((eps, gain)) => MLXArray::apply(RmsNorm { eps }, &[&inputs[0], &inputs[gain]]),
            None => inputs[0].clone(),
        };
        let mut y = x.matmul(&self.format.rows(&inputs[places.weight..][..self.format.inputs()]).t());
        if let Some(bias) = places.bias {
            let bias = &inputs[bias];
            let fits = bias.dtype().is_float() && bias.dims() == &y.dims()[1..];
            assert!(fits, "linear: bias {} of {}", bias.spec(), y.spec());
            y = &y + bias;
        }
        if let Some(kind) = self.gate {
            let half = y.dims()[1] / 2;
            y = MLXArray::apply(Gate { kind }, &[&y.slice(1, 0, half), &y.slice(1, half, half)]);
        }
        match places.residual {
            Some(residual) => {
                let residual = &inputs[residual];
                assert_eq!(residual.spec(), y.spec(), "linear: residual and sum");
                residual + &y
            }
            None => y,
        }
    }

    fn kernels(&self, site: &Site<'_>) -> Vec<Kernel> {
        let weight = self.weight(site.inputs);
        if self.format.k(weight) == 0 || self.gate.is_some() && weight[0].dims[0] % 2 == 1 {
            return Vec::new();
        }
        let rows = matvec::chunks(self, site).map(|chunks| {
            [matvec_several::kernel(self, site, &chunks), matvec_rows::kernel(self, site, &chunks)]
        });
        let others = if self.is_few(site) {
            matvec::kernels(self, site)
        } else {
            let Places { weight, gain, .. } = self.places();
            let (first, epilogue, norm) = (weight, &self.epilogue(site), self.norm.zip(gain));
            Matmul { site, format: self.format, first, epilogue, exact: false, norm }.kernels()
        };
        rows.into_iter().flatten().flatten().chain(others).collect()
    }

    fn variants(&self, site: &Site<'_>) -> Vec<Kernel> {
        let mut kernels = if self.is_few(site) { matvec::variants(self, site) } else { Vec::new() };
        if let Some(chunks) = matvec::chunks(self, site) {
            kernels.extend(matvec_rows::variants(self, site, &chunks));
            kernels.extend(matvec_several::variants(self, site, &chunks));
        }
        kernels
    }

    /// Kernels for few rows of `x` depend on how long they are, and on little else.
    fn small(&self, inputs: &[Spec]) -> Option<Case> {
        let (x, weight) = (&inputs[0], self.weight(inputs));
        if x.axis(2) > FEW {
            return None;
        }
        let n = weight[0].dims[0].min(46);
        let columns = if self.gate.is_some() { n / 2 } else { n };
        let Places { weight: at, bias, residual, .. } = self.places();
        let normal = |dims: &[usize], dtype| Fill::Normal(Spec::new(dims, dtype));
        let mut fills: Vec<Fill> = inputs.iter().cloned().map(Fill::Normal).collect();
        let scales = weight[weight.len() - 1].dtype;
        fills.splice(at..at + weight.len(), self.format.fills(n, x.axis(1), scales));
        if let Some(bias) = bias {
            fills[bias] = normal(&[n], inputs[bias].dtype);
        }
        if let Some(residual) = residual {
            fills[residual] = normal(&[x.axis(2), columns], Dtype::F32);
        }
        Some(Case { op: Arc::new(self.clone()), inputs: fills, reduction: x.axis(1) })
    }

    fn cpu(&self, inputs: &[Spec]) -> Option<CpuKernel> {
        if self.norm.is_some() || self.gate.is_some() || self.residual {
            return None;
        }
        let (format, bias) = (self.format, self.bias);
        let weights = format.inputs();
        let (m, k, n) = (inputs[0].axis(2), inputs[0].axis(1), inputs[1].dims[0]);
        if k == 0 {
            return None;
        }
        Some(Box::new(move |x, mut y| {
            let bias = bias.then(|| floats(&x[1 + weights]));
            let w = format.host(&x[1..=weights]);
            cpu::matmul(x[0].as_slice(), &w, bias, m, n, k, y.as_mut_slice());
        }))
    }
}

/// Sizes worth testing.
pub(super) fn cases() -> Vec<Case> {
    let case = |op: Linear, dtype: Dtype, [m, n, k]: [usize; 3]| {
        let normal = |dims: &[usize], dtype| Fill::Normal(Spec::new(dims, dtype));
        let mut inputs = vec![normal(&[m, k], Dtype::F32)];
        inputs.extend(op.norm.map(|_| normal(&[k], dtype)));
        inputs.extend(op.format.fills(n, k, dtype));
        inputs.extend(op.bias.then(|| normal(&[n], dtype)));
        let columns = if op.gate.is_some() { n / 2 } else { n };
        inputs.extend(op.residual.then(|| normal(&[m, columns], Dtype::F32)));
        Case { op: Arc::new(op), inputs, reduction: k }
    };
    let plain = |format: Format, dtype, shape, bias| case(Linear::new(format, bias), dtype, shape);
    let mut cases = Vec::new();
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        for shape in
            [[1, 64, 256], [1, 1, 1], [2, 5, 37], [3, 259, 300], [4, 33, 130], [9, 70, 45], [65, 96, 128]]
        {
            cases.push(plain(Format::Dense, dtype, shape, shape[1] % 2 == 1));
        }
        // Rows long enough for large workgroups, with an uneven end.
        for (m, k) in [(1, 2056), (2, 2048), (3, 2051), (4, 2064), (7, 2048), (1, 8200)] {
            cases.push(plain(Format::Dense, dtype, [m, 6, k], m == 1));
        }
        // As many rows of x as registers hold of such a length.
        for (m, k) in [(2, 9728), (3, 7000), (4, 4104), (5, 4096), (8, 3000)] {
            cases.push(plain(Format::Dense, dtype, [m, 11, k], m % 2 == 1));
        }
        // More than they hold: parts of k, the last a shorter one.
        for (m, k) in [(2, 14336), (4, 9000), (5, 14336), (8, 4104)] {
            cases.push(plain(Format::Dense, dtype, [m, 11, k], m % 2 == 1));
            cases.push(case(
                Linear { residual: true, ..Linear::new(Format::Dense, false) },
                dtype,
                [m, 6, k],
            ));
        }
        if dtype != Dtype::F32 {
            sizes(8).into_iter().for_each(|size| cases.push(plain(Format::Dense, dtype, size, true)));
        }
        cases.push(plain(Format::Dense, dtype, [20, 33, 1027], true));
        cases.push(plain(Format::Dense, dtype, [66, 130, 131], false));
    }
    // More rows than a workgroup has sums for.
    for shape in [[8, 4300, 4096], [2, 140_000, 64]] {
        cases.push(plain(Format::Dense, Dtype::BF16, shape, false));
    }
    // What f16 cannot hold, on either side.
    for [m, n, k] in [[20, 37, 72], [66, 100, 136], [12, 70, 1032]] {
        let wide = |rows: usize, dtype| Fill::Wide(Spec::new(&[rows, k], dtype));
        let op = Arc::new(Linear::new(Format::Dense, false));
        cases.push(Case { op, inputs: vec![wide(m, Dtype::F32), wide(n, Dtype::BF16)], reduction: k });
    }
    for bits in [2, 3, 4, 5, 6, 8] {
        for (group, dtype) in [(32, Dtype::F32), (64, Dtype::F16), (128, Dtype::BF16)] {
            let format = Format::Affine { bits, group };
            cases.push(plain(format, dtype, [1, 67, 2 * group], false));
            cases.push(plain(format, dtype, [3, 12, 3 * group], true));
            cases.push(plain(format, dtype, [8, 5, 3 * group], false));
            cases.push(plain(format, dtype, [1, 6, 2048 + group], false));
            cases.push(plain(format, dtype, [19, if bits == 4 { 270 } else { 37 }, group], false));
            if matches!((bits, group), (4 | 8, _) | (_, 64)) {
                sizes(group).into_iter().for_each(|size| cases.push(plain(format, dtype, size, false)));
            }
        }
    }
    // More rows than the arrangement for few takes.
    for bits in [2, 3, 4, 5, 6, 8] {
        cases.push(plain(Format::Affine { bits, group: 64 }, Dtype::BF16, [1, 4101, 64], false));
    }
    // What stands around it in a model.
    let formats =
        [(Format::Dense, Dtype::BF16), (Format::Dense, Dtype::F16), (Format::Dense, Dtype::F32)].into_iter();
    let packed = [2, 3, 4, 5, 6, 8].map(|bits| (Format::Affine { bits, group: 64 }, Dtype::BF16));
    let other = [(32, Dtype::BF16), (64, Dtype::F16), (128, Dtype::BF16)];
    for (group, dtype) in other {
        let linear = Linear::new(Format::Affine { bits: 4, group }, false);
        let normed = Linear { norm: Some(1e-6), ..linear.clone() };
        cases.push(case(normed.clone(), dtype, [1, 21, 128]));
        cases.push(case(Linear { gate: Some(GateKind::Silu), ..normed }, dtype, [1, 22, 128]));
        cases.push(case(Linear { residual: true, ..linear }, dtype, [1, 19, 128]));
    }
    for (format, dtype) in formats.chain(packed) {
        let linear = Linear::new(format, false);
        let normed = Linear { norm: Some(1e-5), ..linear.clone() };
        let gate = Some(GateKind::Silu);
        for (m, k) in [(1, 128), (1, 2240), (6, 192)] {
            cases.push(case(normed.clone(), dtype, [m, 21, k]));
            cases.push(case(Linear { gate, ..normed.clone() }, dtype, [m, 46, k]));
            cases.push(case(Linear { residual: true, ..linear.clone() }, dtype, [m, 19, k]));
        }
        // Many rows: norms where there are matrix units, k split under a gate.
        if matches!((format, dtype), (Format::Dense | Format::Affine { bits: 4 | 8, .. }, Dtype::BF16)) {
            for (m, k) in [(12, 1088), (70, 192)] {
                cases.push(case(normed.clone(), dtype, [m, 37, k]));
                cases.push(case(Linear { gate, ..normed.clone() }, dtype, [m, 92, k]));
            }
        }
        cases.push(case(Linear { bias: true, ..normed }, dtype, [1, 23, 128]));
        cases.push(case(Linear { residual: true, bias: true, ..linear.clone() }, dtype, [30, 70, 128]));
        let gelu = Linear { gate: Some(GateKind::Gelu), bias: true, ..linear };
        cases.push(case(gelu.clone(), dtype, [2, 10, 64]));
        cases.push(case(Linear { residual: true, ..gelu }, dtype, [67, 74, 64]));
    }
    // A few rows of x by integer products: k in several blocks, rows of the weight that fill no workgroup.
    for (bits, group) in [(4, 32), (4, 64), (4, 128), (8, 64), (2, 64), (3, 32), (5, 128), (6, 64)] {
        let linear = Linear::new(Format::Affine { bits, group }, false);
        for (m, k) in [(2, 2048 + 3 * group), (5, 1024 + group), (8, 2 * 1024)] {
            cases.push(case(Linear { bias: m == 5, ..linear.clone() }, Dtype::F16, [m, 83, k]));
            cases.push(case(
                Linear { gate: Some(GateKind::Silu), norm: Some(1e-5), ..linear.clone() },
                Dtype::BF16,
                [m, 46, k],
            ));
            cases.push(case(Linear { residual: true, ..linear.clone() }, Dtype::F32, [m, 35, k]));
        }
    }
    // As many rows of the weight as large workgroups take in several turns.
    for (bits, m) in [(2, 2), (3, 3), (4, 2), (4, 3), (4, 4), (5, 4), (6, 3), (8, 2), (8, 4)] {
        let gate = (m == 4).then_some(GateKind::Silu);
        let linear = Linear { gate, ..Linear::new(Format::Affine { bits, group: 64 }, m == 3) };
        cases.push(case(linear, Dtype::F16, [m, 2702, 4096]));
    }
    cases
}
