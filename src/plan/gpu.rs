//! A graph as a [`Recording`]: which values get buffers, which are expressions inside kernels.

use super::graph::{Chosen, Graph, Kind, Linked};
use super::slots::{Operand, Slot, Slots};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::gpu::{Bind, Caps, Recording, Step};
use crate::op::{Arg, Spec, Stage};
use crate::prim::Prim;
use std::rc::Rc;

/// Inputs that one generated kernel may read: with its output, the baseline's 8 storage buffers.
const MAX_READS: usize = 7;
/// Values that one generated kernel may compute per element.
const MAX_VALUES: usize = 64;

/// What a plan for the GPU is made of.
pub(super) struct Lowered {
    pub(super) recording: Recording,
    pub(super) slots: Vec<Slot>,
    pub(super) outputs: Vec<Operand>,
}

pub(super) struct Lowering<'a> {
    pub(super) graph: &'a Graph,
    caps: &'a Caps,
    pub(super) stored: Rc<[bool]>,
    /// For a stored value, the reduction or product that is computed in the same kernel.
    folds: Vec<Option<usize>>,
    placed: Vec<Option<Operand>>,
    slots: Slots,
    steps: Vec<Step>,
}

/// Plans a graph for an adapter.
///
/// # Errors
/// A value larger than a kernel of this adapter can bind.
pub(super) fn lower(graph: &Graph, caps: &Caps, fuse: bool) -> Result<Lowered> {
    let (stored, folds) = decide(graph, caps, fuse);
    let within: Vec<usize> = folds.iter().flatten().copied().collect();
    let mut l = Lowering {
        graph,
        caps,
        stored: stored.into(),
        folds,
        placed: vec![None; graph.nodes.len()],
        slots: Slots::default(),
        steps: Vec::new(),
    };
    for (i, node) in graph.nodes.iter().enumerate() {
        if l.stored[i] && !within.contains(&i) {
            l.place(i).map_err(|e| e.context(format!("planning {} {}", describe(&node.kind), node.spec)))?;
        }
    }
    let outputs = graph.outputs.iter().map(|&i| l.output(i)).collect::<Vec<_>>();
    for operand in &outputs {
        l.slots.touch(operand.slot, l.steps.len());
    }
    let (renamed, slots) = l.slots.share();
    let mut recording = Recording { buffers: Vec::new(), steps: l.steps };
    for step in &mut recording.steps {
        match step {
            Step::Dispatch(d) => d.binds.iter_mut().for_each(|b| b.slot = renamed[b.slot]),
            Step::Copy { src, dst, .. } => (*src, *dst) = (renamed[*src], renamed[*dst]),
        }
    }
    recording.buffers = slots
        .iter()
        .map(|slot| match slot {
            Slot::Leaf(i) => padded(graph.leaves[*i].nbytes()),
            Slot::Temp { bytes } | Slot::Output { bytes } => padded(*bytes),
        })
        .collect();
    let outputs = outputs.into_iter().map(|o| Operand { slot: renamed[o.slot], ..o }).collect();
    Ok(Lowered { recording, slots, outputs })
}

fn describe(kind: &Kind) -> String {
    match kind {
        Kind::Leaf { .. } => "leaf".into(),
        Kind::Scalar(_) => "scalar".into(),
        Kind::Prim(prim, _) => format!("{prim:?}"),
        Kind::Op { op, .. } => op.name().into(),
    }
}

/// Bytes of a buffer: whole words, never none.
fn padded(bytes: usize) -> u64 {
    bytes.next_multiple_of(4).max(4) as u64
}

/// Which values get a buffer: what is not pointwise, what such steps read, what is used twice, outputs,
/// and expressions that have grown beyond what one kernel may bind.
fn decide(graph: &Graph, caps: &Caps, fuse: bool) -> (Vec<bool>, Vec<Option<usize>>) {
    let uses = graph.uses();
    let n = graph.nodes.len();
    let mut stored: Vec<bool> = graph.nodes.iter().map(|node| !node.is_pointwise()).collect();
    graph.outputs.iter().for_each(|&i| stored[i] = true);
    for node in &graph.nodes {
        let reads_buffers =
            matches!(&node.kind, Kind::Op { .. } | Kind::Prim(Prim::Write | Prim::TopK(_), _));
        if reads_buffers {
            node.inputs().iter().for_each(|&i| stored[i] = true);
        }
    }
    let computes = |i: usize| {
        matches!(
            &graph.nodes[i].kind,
            Kind::Prim(Prim::Cast(_) | Prim::Map(_) | Prim::Select | Prim::Gather(_), _)
        )
    };
    for i in 0..n {
        if computes(i) && (!fuse || uses[i] > 1) {
            stored[i] = true;
        }
    }
    // Limits, inputs first: `reads` and `size` of the expression behind each value that is not stored.
    let limit = MAX_READS.min(caps.storage_buffers as usize - 1);
    let mut reads: Vec<Vec<usize>> = vec![Vec::new(); n];
    let mut size = vec![0usize; n];
    for i in 0..n {
        let inputs = graph.nodes[i].inputs().to_vec();
        let gather = |stored: &[bool], reads: &[Vec<usize>], size: &[usize]| {
            let mut all = Vec::new();
            let mut count = 1;
            for &x in &inputs {
                if stored[x] {
                    all.push(x);
                } else {
                    all.extend(&reads[x]);
                    count += size[x];
                }
            }
            all.sort_unstable();
            all.dedup();
            (all, count)
        };
        let (mut all, mut count) = gather(&stored, &reads, &size);
        if all.len() > limit || count > MAX_VALUES {
            inputs.iter().filter(|&&x| !reads[x].is_empty()).for_each(|&x| stored[x] = true);
            (all, count) = gather(&stored, &reads, &size);
        }
        (reads[i], size[i]) = (all, count);
    }
    // An elementwise chain whose values are those of one reduction or product ends that one's kernel, if no
    // other kernel reads them: a view of them may be used several times.
    let mut readers = vec![0; n];
    (0..n).filter(|&i| stored[i]).for_each(|i| reads[i].iter().for_each(|&x| readers[x] += 1));
    let mut folds = vec![None; n];
    for i in (0..n).filter(|&i| fuse && stored[i] && computes(i)) {
        let alone = |x: usize| uses[x] == 1 && readers[x] == 1;
        let fold = reads[i].iter().copied().find(|&x| alone(x) && ends(graph, &stored, i, x));
        folds[i] = fold.filter(|&x| reads[i].len() + reads[x].len() <= limit + 1);
    }
    (stored, folds)
}

/// Whether element `o` of a value depends on element `o` of a fold, and on no other of it.
fn ends(graph: &Graph, stored: &[bool], value: usize, fold: usize) -> bool {
    let (node, folded) = (&graph.nodes[value], &graph.nodes[fold]);
    let plain = |i: usize| graph.nodes[i].spec.size() == folded.spec.size();
    let is_fold = matches!(folded.kind, Kind::Prim(Prim::Reduce(..) | Prim::Matmul, _));
    if !is_fold || !plain(value) || node.spec.dtype.size() != 4 || folded.spec.dtype.size() != 4 {
        return false;
    }
    let mut at = value;
    // Down the one path that leads to the fold.
    loop {
        let straight = match &graph.nodes[at].kind {
            Kind::Prim(Prim::Cast(_) | Prim::Map(_) | Prim::Select, _) => true,
            Kind::Prim(Prim::View(layout), _) => layout.is_contiguous() && layout.offset == 0,
            _ => false,
        };
        let leads = |&&x: &&usize| x == fold || !stored[x] && reaches(graph, stored, x, fold);
        let mut next = graph.nodes[at].inputs().iter().filter(leads);
        match (next.next(), next.next()) {
            (Some(&next), None) if straight && plain(at) => at = next,
            _ => return false,
        }
        if at == fold {
            return true;
        }
    }
}

/// Whether the expression behind a value reads another.
fn reaches(graph: &Graph, stored: &[bool], from: usize, to: usize) -> bool {
    graph.nodes[from].inputs().iter().any(|&x| x == to || !stored[x] && reaches(graph, stored, x, to))
}

impl Lowering<'_> {
    fn slot(&mut self, kind: Slot) -> usize {
        self.slots.add(kind, self.steps.len())
    }

    pub(super) fn fresh(&mut self, node: usize) -> Operand {
        let spec = self.graph.nodes[node].spec.clone();
        let bytes = spec.bytes();
        let kind =
            if self.graph.outputs.contains(&node) { Slot::Output { bytes } } else { Slot::Temp { bytes } };
        Operand { slot: self.slot(kind), offset: 0, spec }
    }

    fn placed(&self, node: usize) -> Operand {
        self.placed[node].clone().unwrap_or_else(|| unreachable!("inputs are placed before their users"))
    }

    /// Gives a stored value its buffer and records what fills it.
    fn place(&mut self, i: usize) -> Result<()> {
        let graph = self.graph;
        let node = &graph.nodes[i];
        let operand = match &node.kind {
            Kind::Leaf { index, .. } => {
                Operand { slot: self.slot(Slot::Leaf(*index)), offset: 0, spec: node.spec.clone() }
            }
            Kind::Op { op, inputs, kernel: Chosen::Gpu(linked) } => {
                let output = match op.in_place() {
                    Some(k) => self.writable(inputs[k], i)?,
                    None => self.fresh(i),
                };
                self.stages(op.name(), linked, inputs, &output)?;
                output
            }
            Kind::Op { .. } => unreachable!("the target was the GPU"),
            Kind::Prim(Prim::View(layout), inputs) if self.alias(inputs[0], layout).is_some() => {
                let source = self.placed(inputs[0]);
                let offset = source.offset + layout.offset * node.spec.dtype.size();
                Operand { slot: source.slot, offset, spec: node.spec.clone() }
            }
            Kind::Prim(Prim::Reduce(..) | Prim::Matmul, _) => self.folded(i, i)?,
            _ if let Some(fold) = self.folds[i] => self.folded(fold, i)?,
            Kind::Prim(Prim::Write, inputs) => self.put(i, inputs)?,
            Kind::Prim(Prim::TopK(k), inputs) => self.topk(i, *k, inputs)?,
            Kind::Prim(..) | Kind::Scalar(_) => self.map(i)?,
        };
        self.placed[i] = Some(operand);
        Ok(())
    }

    /// A view that is a plain range of a stored value needs no copy, if kernels can bind it there.
    fn alias(&self, source: usize, layout: &crate::layout::Layout) -> Option<()> {
        let base = self.placed[source].as_ref()?;
        let size = base.spec.dtype.size();
        let at = base.offset + layout.offset * size;
        let aligned = at.is_multiple_of(self.caps.offset_alignment.max(4) as usize);
        // What has no elements may lie past the end of its source.
        let inside = (1..=base.spec.size()).contains(&layout.size());
        (layout.is_contiguous() && aligned && inside).then_some(())
    }

    /// The operand that an in-place op overwrites: the leaf itself if it may change, else a copy.
    pub(super) fn writable(&mut self, source: usize, node: usize) -> Result<Operand> {
        let from = self.placed(source);
        if self.slots.may_change(from.slot, &self.graph.leaves) {
            return Ok(from);
        }
        let to = self.fresh(node);
        self.copy(&from, &to);
        Ok(to)
    }

    /// Refuses an update of an array that was not made to change.
    fn must_change(&self, node: usize) -> Result<()> {
        if self.slots.may_change(self.placed(node).slot, &self.graph.leaves) {
            return Ok(());
        }
        Err(Error::input(format!(
            "{} would be updated, but was not made to change",
            self.graph.nodes[node].spec
        )))
    }

    fn copy(&mut self, from: &Operand, to: &Operand) {
        let bytes = padded(to.spec.bytes());
        if to.spec.bytes() > 0 {
            self.touch(from.slot);
            self.touch(to.slot);
            self.steps.push(Step::Copy {
                src: from.slot,
                src_offset: from.offset as u64,
                dst: to.slot,
                dst_offset: to.offset as u64,
                bytes,
            });
        }
    }

    fn touch(&mut self, slot: usize) {
        self.slots.touch(slot, self.steps.len());
    }

    /// Where the caller finds an output: its own buffer, or a leaf's that it is equal to.
    fn output(&mut self, node: usize) -> Operand {
        let operand = self.placed(node);
        if self.slots.is_whole(&operand, &self.graph.leaves) {
            return operand;
        }
        let slot = self.slot(Slot::Output { bytes: operand.spec.bytes() });
        let own = Operand { slot, offset: 0, spec: operand.spec.clone() };
        self.copy(&operand, &own);
        own
    }

    fn bind(&mut self, operand: &Operand, part: Option<(u64, u64)>, write: bool) -> Result<Bind> {
        let (offset, bytes) = part.unwrap_or((0, padded(operand.spec.bytes())));
        if bytes > self.caps.max_binding {
            return Err(Error::memory(format!(
                "{} needs a binding of {bytes} bytes, the adapter allows {}",
                operand.spec, self.caps.max_binding
            )));
        }
        self.touch(operand.slot);
        Ok(Bind { slot: operand.slot, offset: operand.offset as u64 + offset, bytes, write })
    }

    fn stages(
        &mut self,
        name: &'static str,
        linked: &Linked,
        inputs: &[usize],
        output: &Operand,
    ) -> Result<()> {
        if output.spec.size() == 0 {
            return Ok(());
        }
        let scratch: Vec<Operand> = linked
            .kernel
            .scratch
            .iter()
            .map(|&bytes| {
                let slot = self.slot(Slot::Temp { bytes: bytes as usize });
                Operand { slot, offset: 0, spec: Spec::new(&[(bytes / 4) as usize], Dtype::U32) }
            })
            .collect();
        for (stage, source) in linked.kernel.stages.iter().zip(&linked.sources) {
            let mut binds = Vec::new();
            for (args, write) in [(&stage.reads, false), (&stage.writes, true)] {
                for arg in args {
                    if let (Arg::Input(k), true) = (arg, write) {
                        self.must_change(inputs[*k])?;
                    }
                    let (operand, part) = match *arg {
                        Arg::Input(k) => (self.placed(inputs[k]), None),
                        Arg::InputPart { index, offset, bytes } => {
                            (self.placed(inputs[index]), Some((offset, bytes.next_multiple_of(4))))
                        }
                        Arg::Output => (output.clone(), None),
                        Arg::Scratch(k) => (scratch[k].clone(), None),
                    };
                    binds.push(self.bind(&operand, part, write)?);
                }
            }
            let name = if stage.name.is_empty() { name } else { stage.name };
            self.steps.push(Step::Dispatch(stage.dispatch_of(source.clone(), name, binds)));
        }
        Ok(())
    }

    /// Records a generated kernel: `reads` in binding order, then the output.
    pub(super) fn generated(&mut self, stage: &Stage, reads: &[usize], output: &Operand) -> Result<()> {
        if output.spec.size() == 0 {
            return Ok(());
        }
        if output.spec.size() > u32::MAX as usize {
            return Err(Error::memory(format!("{} has more elements than 32 bits can index", output.spec)));
        }
        let mut binds = Vec::new();
        for &node in reads {
            let operand = self.placed(node);
            binds.push(self.bind(&operand, None, false)?);
        }
        binds.push(self.bind(output, None, true)?);
        self.steps.push(Step::Dispatch(stage.dispatch(stage.name, binds)));
        Ok(())
    }
}
