//! A graph as steps for the CPU: native kernels where ops have them, primitives one by one.

use super::graph::{Chosen, Graph, Kind, Node};
use super::slots::{Operand, Slot, Slots};
use crate::array::MLXArray;
use crate::cpu::{self, Binary};
use crate::dtype::Dtype;
use crate::op::{CpuKernel, HostMut, HostRef, Spec};
use crate::prim::{Fun, Prim};
use crate::reference::{self, Values};

/// One kernel and its operands; an in-place operand is the output alone.
pub(super) struct HostStep {
    pub(super) kernel: CpuKernel,
    pub(super) inputs: Vec<Operand>,
    pub(super) output: Operand,
}

/// What a plan for the CPU is made of.
pub(super) struct Lowered {
    pub(super) steps: Vec<HostStep>,
    pub(super) slots: Vec<Slot>,
    pub(super) outputs: Vec<Operand>,
}

/// Plans a graph for the CPU; takes the kernels out of it.
pub(super) fn lower(graph: Graph) -> Lowered {
    let Graph { nodes, leaves, outputs } = graph;
    let mut l = Lowering { slots: Slots::default(), steps: Vec::new(), leaves };
    let mut placed: Vec<Operand> = Vec::new();
    for (i, node) in nodes.into_iter().enumerate() {
        let bytes = node.spec.bytes();
        let own = if outputs.contains(&i) { Slot::Output { bytes } } else { Slot::Temp { bytes } };
        let operand = l.place(node, own, &placed);
        placed.push(operand);
    }
    let outputs: Vec<Operand> = outputs.iter().map(|&i| l.output(&placed[i])).collect();
    for operand in &outputs {
        l.slots.touch(operand.slot, l.steps.len());
    }
    let (renamed, slots) = l.slots.share();
    let rename = |o: Operand| Operand { slot: renamed[o.slot], ..o };
    let steps = l.steps.into_iter().map(|s| HostStep {
        kernel: s.kernel,
        inputs: s.inputs.into_iter().map(rename).collect(),
        output: rename(s.output),
    });
    Lowered { steps: steps.collect(), slots, outputs: outputs.into_iter().map(rename).collect() }
}

struct Lowering {
    slots: Slots,
    steps: Vec<HostStep>,
    leaves: Vec<MLXArray>,
}

impl Lowering {
    /// Adds the steps that compute a node, whose inputs are `placed`; returns where its value is. `own` is the slot it
    /// gets if it cannot be where another value is.
    fn place(&mut self, node: Node, own: Slot, placed: &[Operand]) -> Operand {
        let operands = |inputs: &[usize]| inputs.iter().map(|&x| placed[x].clone()).collect::<Vec<_>>();
        let spec = node.spec;
        match node.kind {
            Kind::Leaf { index, .. } => self.fresh(Slot::Leaf(index), spec),
            Kind::Scalar(bits) => {
                let dtype = spec.dtype;
                let output = self.fresh(own, spec);
                let fill: CpuKernel =
                    Box::new(move |_, out| reference::scalar(bits, dtype).to_bytes(dtype, out.bytes));
                self.step(fill, vec![], &output);
                output
            }
            Kind::Op { op, inputs, kernel: Chosen::Cpu(kernel) } => {
                let mut operands = operands(&inputs);
                let output = match op.in_place() {
                    Some(k) => self.writable(operands.remove(k), own, spec),
                    None => self.fresh(own, spec),
                };
                self.step(kernel, operands, &output);
                output
            }
            Kind::Op { .. } => unreachable!("the target was the CPU"),
            Kind::Prim(Prim::Write, inputs) => {
                let output = self.writable(placed[inputs[0]].clone(), own, spec);
                self.step(Box::new(put), operands(&inputs[1..]), &output);
                output
            }
            // What has no elements may lie past the end of its source.
            Kind::Prim(Prim::View(layout), inputs)
                if spec.size() > 0
                    && layout.is_contiguous()
                    && (layout.offset * spec.dtype.size()).is_multiple_of(4) =>
            {
                let source = &placed[inputs[0]];
                let offset = source.offset + layout.offset * spec.dtype.size();
                Operand { slot: source.slot, offset, spec }
            }
            Kind::Prim(prim, inputs) => {
                let output = self.fresh(own, spec);
                let operands = operands(&inputs);
                self.step(primitive(prim, &operands), operands, &output);
                output
            }
        }
    }

    /// A whole new slot.
    fn fresh(&mut self, kind: Slot, spec: Spec) -> Operand {
        Operand { slot: self.slots.add(kind, self.steps.len()), offset: 0, spec }
    }

    /// The operand that an in-place step overwrites: a leaf that may change, else a copy.
    fn writable(&mut self, target: Operand, own: Slot, spec: Spec) -> Operand {
        if self.slots.may_change(target.slot, &self.leaves) {
            return target;
        }
        let output = self.fresh(own, spec);
        self.step(Box::new(copy), vec![target], &output);
        output
    }

    /// Where the caller finds an output: all of a buffer that outlives the run.
    fn output(&mut self, operand: &Operand) -> Operand {
        if self.slots.is_whole(operand, &self.leaves) {
            return operand.clone();
        }
        let own = self.fresh(Slot::Output { bytes: operand.spec.bytes() }, operand.spec.clone());
        self.step(Box::new(copy), vec![operand.clone()], &own);
        own
    }

    fn step(&mut self, kernel: CpuKernel, inputs: Vec<Operand>, output: &Operand) {
        let now = self.steps.len();
        inputs.iter().chain([output]).for_each(|o| self.slots.touch(o.slot, now));
        self.steps.push(HostStep { kernel, inputs, output: output.clone() });
    }
}

fn copy(x: &[HostRef<'_>], out: HostMut<'_>) {
    out.bytes.copy_from_slice(x[0].bytes);
}

/// Rows to their places in the output; an index past the end is skipped.
fn put(x: &[HostRef<'_>], out: HostMut<'_>) {
    let row = out.bytes.len() / out.spec.dims[0].max(1);
    for (rows, &to) in x[0].bytes.chunks_exact(row.max(1)).zip(x[1].as_slice::<u32>()) {
        if let Some(place) = out.bytes.chunks_exact_mut(row.max(1)).nth(to as usize) {
            place.copy_from_slice(rows);
        }
    }
}

/// A primitive as a kernel: straight loops for f32 arithmetic, the interpreter for the rest.
fn primitive(prim: Prim, inputs: &[Operand]) -> CpuKernel {
    let plain = inputs.iter().all(|o| o.spec.dtype == Dtype::F32);
    match prim {
        Prim::Map(Fun::Add) if plain => binary(Binary::Add),
        Prim::Map(Fun::Sub) if plain => binary(Binary::Sub),
        Prim::Map(Fun::Mul) if plain => binary(Binary::Mul),
        Prim::Map(Fun::Div) if plain => binary(Binary::Div),
        Prim::Map(Fun::Max) if plain => binary(Binary::Max),
        Prim::Map(Fun::Min) if plain => binary(Binary::Min),
        prim => Box::new(move |x, out| {
            let values: Vec<(Values, &Spec)> =
                x.iter().map(|r| (Values::from_bytes(r.bytes, r.spec.dtype), r.spec)).collect();
            let borrowed: Vec<(&Values, &Spec)> = values.iter().map(|(v, s)| (v, *s)).collect();
            reference::apply(&prim, &borrowed, out.spec).to_bytes(out.spec.dtype, out.bytes);
        }),
    }
}

fn binary(kind: Binary) -> CpuKernel {
    Box::new(move |x, mut out| cpu::binary(kind, x[0].as_slice(), x[1].as_slice(), out.as_mut_slice()))
}
