//! Rows of a weight by id.

use super::kernel::{declare, spread};
use super::weight::{Chunk, Format, Reader, UNIT};
use crate::array::MLXArray;
use crate::cpu;
use crate::dtype::Dtype;
use crate::op::{Arg, Case, CpuKernel, Fill, Kernel, Op, Site, Spec, Stage, Word};
use crate::wgsl::{File, wgsl};
use std::sync::Arc;

static EMBEDDING: File = wgsl!("embedding.wgsl");

/// `[ids [t] u32, weight..] -> [t, k] f32`, the weight's inputs as [`Format`] says; an id past the end gives
/// zeros.
#[derive(Clone, Debug)]
pub struct Embedding {
    /// How the weight is stored.
    pub format: Format,
}

impl Op for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn words(&self) -> Vec<Word> {
        self.format.words()
    }

    fn meaning(&self, inputs: &[MLXArray]) -> MLXArray {
        assert_eq!(inputs.len(), 1 + self.format.inputs(), "inputs of {self:?}");
        assert_eq!(inputs[0].dims().len(), 1, "ids {}", inputs[0].spec());
        let rows: Vec<MLXArray> = inputs[1..].iter().map(|part| part.take(&inputs[0], 0)).collect();
        self.format.rows(&rows)
    }

    fn kernels(&self, site: &Site<'_>) -> Vec<Kernel> {
        let parts = &site.inputs[1..];
        let Some(reader) = self.format.reader(parts).filter(|_| self.format.k(parts) > 0) else {
            return Vec::new();
        };
        let chunks = self.format.chunks(parts, 1, site.caps);
        let stages = chunks.iter().map(|chunk| self.stage(site, &reader, chunk)).collect();
        vec![Kernel { stages, ..Kernel::default() }]
    }

    fn cpu(&self, inputs: &[Spec]) -> Option<CpuKernel> {
        let (format, n, k) = (self.format, inputs[1].dims[0], self.format.k(&inputs[1..]));
        Some(Box::new(move |x, mut y| {
            cpu::embedding(x[0].as_slice(), &format.host(&x[1..]), n, k, y.as_mut_slice());
        }))
    }
}

impl Embedding {
    fn stage(&self, site: &Site<'_>, reader: &Reader, chunk: &Chunk) -> Stage {
        let (parts, tokens, k) = (&site.inputs[1..], site.output.axis(2), site.output.axis(1));
        let units = k.div_ceil(UNIT);
        let (grid, stride) = spread((tokens * units).div_ceil(64));
        let mut stage = Stage {
            name: "embedding",
            files: [vec![&EMBEDDING], reader.files.clone()].concat(),
            constants: reader.constants.clone(),
            reads: [vec![Arg::Input(0)], chunk.args.clone()].concat(),
            writes: vec![Arg::Output],
            params: vec![
                ("tokens", tokens.into()),
                ("n", parts[0].dims[0].into()),
                ("rows", chunk.rows.into()),
                ("first_row", chunk.first_row.into()),
                ("k", k.into()),
                ("units", units.into()),
                ("groups", self.format.groups(parts).into()),
                ("stride", stride),
            ],
            grid,
            ..Stage::default()
        };
        let reads = [vec![("ids", "array<u32>")], reader.bindings.clone()].concat();
        stage.generated = declare(&stage, &reads, &[("y", "array<f32>")]);
        stage
    }
}

/// Sizes worth testing.
pub(super) fn cases() -> Vec<Case> {
    let case = |format: Format, dtype: Dtype, ids: &[u32], n: usize, k: usize| {
        let mut inputs = vec![Fill::U32(vec![ids.len()], ids.to_vec())];
        inputs.extend(format.fills(n, k, dtype));
        Case { op: Arc::new(Embedding { format }), inputs, reduction: 1 }
    };
    let mut cases = Vec::new();
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        cases.push(case(Format::Dense, dtype, &[3], 11, 128));
        cases.push(case(Format::Dense, dtype, &[0, 10, 11, 5, 5, u32::MAX, 1], 11, 37));
    }
    // More rows than a small binding shows.
    cases.push(case(
        Format::Affine { bits: 4, group: 64 },
        Dtype::F16,
        &[600, 3, 255, 256, 511, 512],
        600,
        128,
    ));
    for bits in [2, 3, 4, 5, 6, 8] {
        for (group, dtype) in [(32, Dtype::F32), (64, Dtype::F16), (128, Dtype::BF16)] {
            cases.push(case(Format::Affine { bits, group }, dtype, &[4, 9, 0, 10], 10, 3 * group));
        }
    }
    cases
}
