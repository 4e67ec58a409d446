//! `y = x W^T + b` with the weight as the file stores it.

use super::kernel::{FLOATS, PACK, declare, kind, spread, with_sums};
use super::matmul::{Epilogue, Matmul};
use super::matmul_tile::sizes;
use super::weight::{Chunk, Format, Reader, UNIT, floats};
use crate::array::MLXArray;
use crate::cpu;
use crate::dtype::Dtype;
use crate::gpu::Caps;
use crate::op::{Arg, Case, CpuKernel, Fill, Kernel, Op, Site, Spec, Stage, Word};
use crate::wgsl::{File, wgsl};
use std::sync::Arc;

static MATVEC: File = wgsl!("matvec.wgsl");
static X_ALIGNED: File = wgsl!("parts/x_aligned.wgsl");
static X_ODD: File = wgsl!("parts/x_odd.wgsl");
static DOT8: File = wgsl!("parts/dot8.wgsl");
static BIAS: File = wgsl!("parts/bias.wgsl");
static EMIT: File = wgsl!("parts/emit.wgsl");
static NO_BIAS: File = wgsl!("parts/no_bias.wgsl");

/// Rows of `x` up to which every weight is read once for all of them.
const FEW: usize = 4;

/// `[x [m, k] f32, weight.., bias [n] if any] -> [m, n]`, the weight's inputs as [`Format`] says.
#[derive(Clone, Debug)]
pub struct Linear {
    /// How the weight is stored.
    pub format: Format,
    /// Whether a bias is added.
    pub bias: bool,
}

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn words(&self) -> Vec<Word> {
        let mut words = self.format.words();
        words.push(Word::U32(self.bias.into()));
        words
    }

    fn meaning(&self, inputs: &[MLXArray]) -> MLXArray {
        let weights = self.format.inputs();
        assert_eq!(inputs.len(), 1 + weights + usize::from(self.bias), "inputs of {self:?}");
        let y = inputs[0].matmul(&self.format.rows(&inputs[1..=weights]).t());
        if self.bias { &y + &inputs[1 + weights] } else { y }
    }

    fn kernels(&self, site: &Site<'_>) -> Vec<Kernel> {
        let parts = &site.inputs[1..=self.format.inputs()];
        let m = site.inputs[0].axis(2);
        let Some(reader) = self.format.reader(parts).filter(|_| self.format.k(parts) > 0) else {
            return Vec::new();
        };
        let chunks = self.format.chunks(parts, 1, site.caps);
        let all = |stage: &dyn Fn(&Chunk) -> Stage| Kernel {
            scratch: Vec::new(),
            stages: chunks.iter().map(stage).collect(),
        };
        if m <= FEW {
            let kernel = |sums| all(&|chunk| self.matvec(site, &reader, chunk, sums));
            return with_sums(site.caps, kernel);
        }
        Matmul { site, format: self.format, epilogue: &self.epilogue(site), exact: false }.kernels()
    }

    fn cpu(&self, inputs: &[Spec]) -> Option<CpuKernel> {
        let (format, bias) = (self.format, self.bias);
        let weights = format.inputs();
        let (m, k, n) = (inputs[0].axis(2), inputs[0].axis(1), inputs[1].dims[0]);
        Some(Box::new(move |x, mut y| {
            let bias = bias.then(|| floats(&x[1 + weights]));
            let w = format.host(&x[1..=weights]);
            cpu::matmul(x[0].as_slice(), &w, bias, m, n, k, y.as_mut_slice());
        }))
    }
}

impl Linear {
    /// What both kernels share; grid and constants of their own are added by the callers.
    fn stage(&self, site: &Site<'_>, reader: &Reader, chunk: &Chunk, own: &[&'static File]) -> Stage {
        let (m, k) = (site.inputs[0].axis(2), site.inputs[0].axis(1));
        let aligned = k.is_multiple_of(UNIT);
        let bias = 1 + self.format.inputs();

        let mut stage = Stage { name: "linear", files: own.to_vec(), ..Stage::default() };
        stage
            .files
            .extend([if aligned { &X_ALIGNED } else { &X_ODD }, if self.bias { &BIAS } else { &NO_BIAS }]);
        stage.files.extend(&reader.files);
        stage.constants = reader.constants.clone();
        stage.reads = [vec![Arg::Input(0)], chunk.args.clone()].concat();
        stage.writes = vec![Arg::Output];
        stage.params = vec![
            ("m", m.into()),
            ("n", site.output.axis(1).into()),
            ("rows", chunk.rows.into()),
            ("first_row", chunk.first_row.into()),
            ("k", k.into()),
            ("units", k.div_ceil(UNIT).into()),
            ("groups", self.format.groups(&site.inputs[1..]).into()),
            ("stride", 0u32.into()),
        ];
        let mut reads = vec![("x", if aligned { "array<vec4<f32>>" } else { "array<f32>" })];
        reads.extend(&reader.bindings);
        if self.bias {
            stage.reads.push(Arg::Input(bias));
            stage.constants.push(("BIAS", kind(site.inputs[bias].dtype)));
            reads.push(("bias", "array<u32>"));
        }
        stage.generated = declare(&stage, &reads, &[("y", "array<f32>")]);
        stage
    }

    fn matvec(&self, site: &Site<'_>, reader: &Reader, chunk: &Chunk, sums: &'static File) -> Stage {
        let mut stage = self.stage(site, reader, chunk, &[&MATVEC, &DOT8, sums]);
        let (grid, stride) = spread(chunk.rows.div_ceil(4));
        stage.name = "matvec";
        stage.constants.push(("M", site.inputs[0].axis(2) as f64));
        let units = site.inputs[0].axis(1).div_ceil(UNIT);
        stage.constants.push(("WG", self.lanes(site.caps, chunk.rows, units) as f64));
        stage.params[7].1 = stride;
        Stage { grid, ..stage }
    }

    /// Invocations that share four rows in a matvec. A discrete GPU has more of them than a weight with few
    /// rows keeps busy: there rows are cut finer, if each still gets two units. Where quantized rows are
    /// many, small workgroups lose less at their ends.
    fn lanes(&self, caps: &Caps, rows: usize, units: usize) -> usize {
        let enough = rows >= 16384 && self.format != Format::Dense;
        if caps.unified || enough || units < 256 { 64 } else { 128 }
    }

    /// What becomes of a sum of many rows' kernels.
    fn epilogue(&self, site: &Site<'_>) -> Epilogue {
        let bias = 1 + self.format.inputs();
        if !self.bias {
            return Epilogue { files: vec![&EMIT, &NO_BIAS], ..Epilogue::default() };
        }
        Epilogue {
            files: vec![&EMIT, &BIAS, &FLOATS, &PACK],
            constants: vec![("BIAS", kind(site.inputs[bias].dtype))],
            reads: vec![("bias", "array<u32>", Arg::Input(bias))],
            gated: false,
        }
    }
}

/// Sizes worth testing.
pub(super) fn cases() -> Vec<Case> {
    let case = |format: Format, dtype: Dtype, [m, n, k]: [usize; 3], bias: bool| {
        let mut inputs = vec![Fill::Normal(Spec::new(&[m, k], Dtype::F32))];
        inputs.extend(format.fills(n, k, dtype));
        if bias {
            inputs.push(Fill::Normal(Spec::new(&[n], dtype)));
        }
        Case { op: Arc::new(Linear { format, bias }), inputs, reduction: k }
    };
    let mut cases = Vec::new();
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        for shape in
            [[1, 64, 256], [1, 1, 1], [2, 5, 37], [3, 259, 300], [4, 33, 130], [9, 70, 45], [65, 96, 128]]
        {
            cases.push(case(Format::Dense, dtype, shape, shape[1] % 2 == 1));
        }
        // Rows long enough for large workgroups, with an uneven end.
        for (m, k) in [(1, 2056), (2, 2048), (3, 2051), (4, 2064)] {
            cases.push(case(Format::Dense, dtype, [m, 6, k], m == 1));
        }
        if dtype != Dtype::F32 {
            sizes(8).into_iter().for_each(|size| cases.push(case(Format::Dense, dtype, size, true)));
        }
        cases.push(case(Format::Dense, dtype, [20, 33, 1027], true));
        cases.push(case(Format::Dense, dtype, [66, 130, 131], false));
    }
    // What f16 cannot hold, on either side.
    for [m, n, k] in [[20, 37, 72], [66, 100, 136], [12, 70, 1032]] {
        let wide = |rows: usize, dtype| Fill::Wide(Spec::new(&[rows, k], dtype));
        let op = Arc::new(Linear { format: Format::Dense, bias: false });
        cases.push(Case { op, inputs: vec![wide(m, Dtype::F32), wide(n, Dtype::BF16)], reduction: k });
    }
    for bits in [2, 3, 4, 5, 6, 8] {
        for (group, dtype) in [(32, Dtype::F32), (64, Dtype::F16), (128, Dtype::BF16)] {
            let format = Format::Affine { bits, group };
            cases.push(case(format, dtype, [1, 67, 2 * group], false));
            cases.push(case(format, dtype, [3, 12, 3 * group], true));
            cases.push(case(format, dtype, [1, 6, 2048 + group], false));
            cases.push(case(format, dtype, [19, if bits == 4 { 270 } else { 37 }, group], false));
            if matches!((bits, group), (4 | 8, _) | (6, 64)) {
                sizes(group).into_iter().for_each(|size| cases.push(case(format, dtype, size, false)));
            }
        }
    }
    cases
}
