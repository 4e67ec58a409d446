//! Kernels that are printed: what primitives run as where no op has a kernel.

use super::expr::{Printer, declarations, scalar_type};
use super::gpu::Lowering;
use super::graph::Kind;
use super::slots::Operand;
use crate::error::{Error, Result};
use crate::op::{Stage, Word, spread};
use crate::prim::{Fold, Prim};
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

    /// For each output `o` of node `i`, `element(o, j)` folded over `j < n`; then the elementwise chain from there to
    /// node `root`, which is `i` where there is none.
    fn fold(
        &mut self,
        (i, root): (usize, usize),
        name: &'static str,
        fold: Fold,
        n: usize,
        mut printer: Printer<'_>,
        element: &str,
    ) -> Result<Operand> {
        let output = self.fresh(root);
        let kind = scalar_type(self.graph.nodes[i].spec.dtype);
        let (combine, first) = match (fold, kind) {
            (Fold::Sum, _) => ("a + b", 0),
            (Fold::Max, "f32") => ("max(a, b)", f32::NEG_INFINITY.to_bits()),
            (Fold::Min, "f32") => ("min(a, b)", f32::INFINITY.to_bits()),
            (Fold::Max, _) => ("max(a, b)", 0),
            (Fold::Min, _) => ("min(a, b)", u32::MAX),
        };
        let result = if root == i {
            "total".to_string()
        } else {
            printer.name(i, "o", "total");
            printer.value(root, "o", true)
        };
        let (finish, reads) = (printer.take_body(), printer.reads);
        let (grid, stride) = spread(output.spec.size());
        let out = scalar_type(output.spec.dtype);
        let generated = format!(
            "alias Value = {kind};\n{}fn value(i: u32) -> {out} {{ return {out}(0); }}\n\
             fn params_first() -> Value {{ return bitcast<Value>(params.first); }}\n\
             fn fold(a: Value, b: Value) -> Value {{ return {combine}; }}\n\
             fn finish(o: u32, total: Value) -> {out} {{\n{finish}    return {result};\n}}\n\
             fn element(o: u32, j: u32) -> Value {{\n{element}}}\n",
            declarations(
                self.graph,
                &reads,
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
        self.generated(&stage, &reads, &output)?;
        Ok(output)
    }

    /// A reduction or a general product (of operands that are no weights), node `i`, with the elementwise chain from
    /// there to node `root`.
    pub(super) fn folded(&mut self, i: usize, root: usize) -> Result<Operand> {
        let (graph, stored) = (self.graph, self.stored.clone());
        let mut printer = Printer::new(graph, &stored);
        match &graph.nodes[i].kind {
            Kind::Prim(Prim::Reduce(fold, axis), inputs) => {
                let dims = &graph.nodes[inputs[0]].spec.dims;
                let (n, after) = (dims[*axis], dims[axis + 1..].iter().product::<usize>().max(1));
                let result = printer.value(inputs[0], "at", false);
                let body = format!(
                    "    let at = (o / {after}u) * {}u + j * {after}u + o % {after}u;\n{}    return {result};\n",
                    n * after,
                    printer.take_body()
                );
                self.fold((i, root), "reduce", *fold, n, printer, &body)
            }
            Kind::Prim(Prim::Matmul, inputs) => {
                let spec = |input: usize| &graph.nodes[inputs[input]].spec;
                let (m, k, n) = (spec(0).axis(2), spec(0).axis(1), spec(1).axis(1));
                let a = printer.value(inputs[0], "at_a", false);
                let b = printer.value(inputs[1], "at_b", false);
                let body = format!(
                    "    let at_a = (o / {n}u) * {k}u + j;\n    \
                     let at_b = ((o / {}u) * {k}u + j) * {n}u + o % {n}u;\n{}    return {a} * {b};\n",
                    m * n,
                    printer.take_body()
                );
                self.fold((i, root), "product", Fold::Sum, k, printer, &body)
            }
            _ => unreachable!("only reductions and products are folded"),
        }
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
