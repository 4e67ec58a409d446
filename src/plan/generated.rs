//! Kernels that are printed: what primitives run as where no op has a kernel.

use super::expr::{Printer, declarations, scalar_type};
use super::gpu::Lowering;
use super::slots::Operand;
use crate::error::{Error, Result};
use crate::op::{Stage, Word, spread};
use crate::prim::Fold;
use crate::wgsl::{File, wgsl};

pub(crate) static MAP: File = wgsl!("map.wgsl");
pub(crate) static REDUCE: File = wgsl!("reduce.wgsl");
pub(crate) static TOPK: File = wgsl!("topk.wgsl");
pub(crate) static PUT: File = wgsl!("put.wgsl");
pub(crate) static PACK: File = wgsl!("parts/pack.wgsl");
pub(crate) static ANGLE: File = wgsl!("parts/angle.wgsl");
pub(crate) static ERF: File = wgsl!("parts/erf.wgsl");

impl Lowering<'_> {
    pub(super) fn map(&mut self, i: usize) -> Result<Operand> {
        let output = self.fresh(i);
        let mut printer = Printer::new(self.graph, &self.stored);
        let result = printer.value(i, "i", true);
        let (body, reads) = (printer.take_body(), printer.reads);
        let dtype = output.spec.dtype;
        let words = output.spec.bytes().div_ceil(4);
        let (grid, stride) = spread(words.div_ceil(256));
        let generated = format!(
            "{}fn value(i: u32) -> {} {{\n{body}    return {result};\n}}\n",
            declarations(self.graph, &reads, dtype, "n: u32, words: u32, stride: u32, zero: u32"),
            scalar_type(dtype)
        );
        let stage = Stage {
            name: "map",
            files: vec![&MAP, &PACK, &ANGLE, &ERF],
            generated,
            params: vec![
                ("n", output.spec.size().into()),
                ("words", words.into()),
                ("stride", (stride * 256).into()),
                ("zero", Word::U32(0)),
            ],
            grid,
            ..Stage::default()
        };
        self.generated(&stage, &reads, &output)?;
        Ok(output)
    }

    /// `element(o, j)` folded over `j < n` for each output `o`.
    fn fold(
        &mut self,
        i: usize,
        name: &'static str,
        fold: Fold,
        n: usize,
        reads: &[usize],
        element: &str,
    ) -> Result<Operand> {
        let output = self.fresh(i);
        let kind = scalar_type(output.spec.dtype);
        let (combine, first) = match (fold, kind) {
            (Fold::Sum, _) => ("a + b", 0),
            (Fold::Max, "f32") => ("max(a, b)", f32::NEG_INFINITY.to_bits()),
            (Fold::Min, "f32") => ("min(a, b)", f32::INFINITY.to_bits()),
            (Fold::Max, _) => ("max(a, b)", 0),
            (Fold::Min, _) => ("min(a, b)", u32::MAX),
        };
        let (grid, stride) = spread(output.spec.size());
        let generated = format!(
            "alias Value = {kind};\n{}fn value(i: u32) -> Value {{ return Value(0); }}\n\
             fn params_first() -> Value {{ return bitcast<Value>(params.first); }}\n\
             fn fold(a: Value, b: Value) -> Value {{ return {combine}; }}\n\
             fn element(o: u32, j: u32) -> Value {{\n{element}}}\n",
            declarations(
                self.graph,
                reads,
                output.spec.dtype,
                "n: u32, outputs: u32, stride: u32, first: u32, zero: u32"
            ),
        );
        let stage = Stage {
            name,
            files: vec![&REDUCE, &PACK, &ANGLE, &ERF],
            generated,
            params: vec![
                ("n", n.into()),
                ("outputs", output.spec.size().into()),
                ("stride", stride.into()),
                ("first", Word::U32(first)),
                ("zero", Word::U32(0)),
            ],
            grid,
            ..Stage::default()
        };
        self.generated(&stage, reads, &output)?;
        Ok(output)
    }

    pub(super) fn reduce(&mut self, i: usize, fold: Fold, axis: usize, x: usize) -> Result<Operand> {
        let dims = &self.graph.nodes[x].spec.dims;
        let (n, after) = (dims[axis], dims[axis + 1..].iter().product::<usize>().max(1));
        let mut printer = Printer::new(self.graph, &self.stored);
        let result = printer.value(x, "at", false);
        let body = format!(
            "    let at = (o / {after}u) * {}u + j * {after}u + o % {after}u;\n{}    return {result};\n",
            n * after,
            printer.take_body()
        );
        let reads = printer.reads;
        self.fold(i, "reduce", fold, n, &reads, &body)
    }

    /// The general product, for operands that are no weights: a sum over `k` per output element.
    pub(super) fn matmul(&mut self, i: usize, inputs: &[usize]) -> Result<Operand> {
        let (k, n) = (self.graph.nodes[inputs[0]].spec.axis(1), self.graph.nodes[inputs[1]].spec.axis(1));
        let m = self.graph.nodes[inputs[0]].spec.axis(2);
        let mut printer = Printer::new(self.graph, &self.stored);
        let a = printer.value(inputs[0], "at_a", false);
        let b = printer.value(inputs[1], "at_b", false);
        let body = format!(
            "    let at_a = (o / {n}u) * {k}u + j;\n    let at_b = ((o / {}u) * {k}u + j) * {n}u + o % {n}u;\n\
             {}    return {a} * {b};\n",
            m * n,
            printer.take_body()
        );
        let reads = printer.reads;
        self.fold(i, "product", Fold::Sum, k, &reads, &body)
    }

    pub(super) fn put(&mut self, i: usize, inputs: &[usize]) -> Result<Operand> {
        let spec = &self.graph.nodes[i].spec;
        let row = spec.dims[1..].iter().product::<usize>() * spec.dtype.size();
        if !row.is_multiple_of(4) {
            return Err(Error::unsupported(format!(
                "put of rows of {row} bytes, not whole words, on the GPU"
            )));
        }
        let width = row / 4;
        let output = self.writable(inputs[0], i)?;
        let count = self.graph.nodes[inputs[2]].spec.size();
        let (grid, stride) = spread((width * count).div_ceil(256));
        let stage = Stage {
            name: "put",
            files: vec![&PUT],
            params: vec![
                ("width", width.into()),
                ("count", count.into()),
                ("capacity", spec.dims[0].into()),
                ("stride", (stride * 256).into()),
            ],
            grid,
            ..Stage::default()
        };
        if width * count > 0 {
            self.generated(&stage, &inputs[1..], &output)?;
        }
        Ok(output)
    }

    pub(super) fn topk(&mut self, i: usize, k: usize, inputs: &[usize]) -> Result<Operand> {
        let output = self.fresh(i);
        let n = self.graph.nodes[inputs[0]].spec.axis(1);
        let rows = self.graph.nodes[inputs[0]].spec.size() / n.max(1);
        let (grid, stride) = spread(rows);
        let stage = Stage {
            name: "topk",
            files: vec![&TOPK],
            params: vec![("n", n.into()), ("k", k.into()), ("rows", rows.into()), ("stride", stride.into())],
            grid,
            ..Stage::default()
        };
        self.generated(&stage, inputs, &output)?;
        Ok(output)
    }
}
