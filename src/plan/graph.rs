//! The lazy graph as a flat list: what a plan is made from, and known by.
//!
//! Nodes appear after their inputs. An op that has no kernel where it would run is replaced by its
//! meaning. The list holds no elements, so two graphs with equal lists share one plan.

use super::check::is_refused;
use super::program::MAX_INPUTS;
use super::tuned::instead;
use crate::array::{Device, Expr, MLXArray, State};
use crate::gpu::{Caps, Gpu};
use crate::op::{CpuKernel, Kernel, Op, Site, Spec};
use crate::prim::Prim;
use crate::wgsl::Source;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

/// One value of the graph.
pub(super) struct Node {
    pub(super) spec: Spec,
    pub(super) kind: Kind,
}

/// How it comes to be; numbers are positions in the list.
pub(super) enum Kind {
    /// The `i`-th array that exists already; `mutable` ones may be written in place.
    Leaf {
        index: usize,
        mutable: bool,
    },
    Scalar(u32),
    Prim(Prim, Vec<usize>),
    Op {
        op: Arc<dyn Op>,
        inputs: Vec<usize>,
        kernel: Chosen,
    },
}

/// The kernel that an op will run.
pub(super) enum Chosen {
    Cpu(CpuKernel),
    Gpu(Arc<Linked>),
}

/// A kernel and the shaders of its stages: made once for all ops of a graph that are alike.
pub(super) struct Linked {
    pub(super) kernel: Kernel,
    pub(super) sources: Vec<Source>,
}

impl From<Kernel> for Linked {
    fn from(kernel: Kernel) -> Self {
        let sources = kernel.stages.iter().map(|stage| stage.source()).collect();
        Self { kernel, sources }
    }
}

impl Node {
    pub(super) fn inputs(&self) -> &[usize] {
        match &self.kind {
            Kind::Leaf { .. } | Kind::Scalar(_) => &[],
            Kind::Prim(_, inputs) | Kind::Op { inputs, .. } => inputs,
        }
    }

    /// Whether element `i` of the value is an expression of elements of its inputs.
    pub(super) fn is_pointwise(&self) -> bool {
        match &self.kind {
            Kind::Scalar(_) => true,
            Kind::Prim(p, _) => matches!(
                p,
                Prim::Iota | Prim::Cast(_) | Prim::Map(_) | Prim::Select | Prim::View(_) | Prim::Gather(_)
            ),
            Kind::Leaf { .. } | Kind::Op { .. } => false,
        }
    }
}

/// Where a graph will run.
pub(super) struct Target<'a> {
    /// `None`: the CPU.
    pub(super) caps: Option<&'a Caps>,
    /// The device that kernels are tried on before they are trusted; none for plans that only get printed.
    pub(super) gpu: Option<&'a Arc<Gpu>>,
    /// What was chosen for ops of the graph: layers are alike.
    chosen: RefCell<HashMap<String, Option<Arc<Linked>>>>,
}

impl<'a> Target<'a> {
    pub(super) fn new(caps: Option<&'a Caps>, gpu: Option<&'a Arc<Gpu>>) -> Self {
        Self { caps, gpu, chosen: RefCell::default() }
    }
}

/// The flat list, its leaves and its outputs.
pub(super) struct Graph {
    pub(super) nodes: Vec<Node>,
    pub(super) leaves: Vec<MLXArray>,
    pub(super) outputs: Vec<usize>,
}

impl Graph {
    /// Flattens everything that `outputs` depend on.
    pub(super) fn of(outputs: &[MLXArray], target: &Target<'_>) -> Self {
        let mut graph = Self { nodes: Vec::new(), leaves: Vec::new(), outputs: Vec::new() };
        let mut at: HashMap<u64, usize> = HashMap::new();
        let mut kernels: HashMap<u64, Option<Chosen>> = HashMap::new();
        let mut stack: Vec<(MLXArray, bool)> = outputs.iter().rev().map(|x| (x.clone(), false)).collect();
        while let Some((array, expanded)) = stack.pop() {
            if at.contains_key(&array.id()) {
                continue;
            }
            let expr = match array.state() {
                State::Ready(_) => {
                    let kind = Kind::Leaf { index: graph.leaves.len(), mutable: array.0.mutable };
                    graph.leaves.push(array.clone());
                    at.insert(array.id(), graph.push(array.spec(), kind));
                    continue;
                }
                State::Lazy(expr) => expr,
            };
            let chosen = match &*expr {
                Expr::Op { op, inputs, .. } => {
                    let specs = || inputs.iter().map(|x| x.spec().clone()).collect::<Vec<_>>();
                    let kernel = kernels.entry(array.id());
                    kernel.or_insert_with(|| choose(op, &specs(), array.spec(), target)).is_some()
                }
                _ => false,
            };
            let inputs = match &*expr {
                Expr::Op { meaning, .. } if !chosen => std::slice::from_ref(meaning),
                other => other.inputs(),
            };
            if !expanded {
                stack.push((array, true));
                stack.extend(inputs.iter().rev().map(|x| (x.clone(), false)));
                continue;
            }
            let inputs: Vec<usize> = inputs.iter().map(|x| at[&x.id()]).collect();
            let place = match (&*expr, kernels.remove(&array.id()).flatten()) {
                (Expr::Op { op, .. }, Some(kernel)) => {
                    graph.push(array.spec(), Kind::Op { op: op.clone(), inputs, kernel })
                }
                (Expr::Op { .. }, None) => inputs[0],
                (Expr::Prim(prim, _), _) => graph.push(array.spec(), Kind::Prim(prim.clone(), inputs)),
                (Expr::Scalar(bits), _) => graph.push(array.spec(), Kind::Scalar(*bits)),
            };
            at.insert(array.id(), place);
        }
        graph.outputs = outputs.iter().map(|x| at[&x.id()]).collect();
        graph
    }

    fn push(&mut self, spec: &Spec, kind: Kind) -> usize {
        self.nodes.push(Node { spec: spec.clone(), kind });
        self.nodes.len() - 1
    }

    /// Everything a plan depends on, as text. Equal keys, equal plans.
    pub(super) fn key(&self, device: Device, fuse: bool) -> String {
        use std::fmt::Write;
        let mut key = format!("{device} {fuse} {:?}\n", self.outputs);
        for node in &self.nodes {
            // Writing to a String cannot fail.
            let _ = match &node.kind {
                Kind::Leaf { index, mutable } => writeln!(key, "{} leaf {index} {mutable}", node.spec),
                Kind::Scalar(bits) => writeln!(key, "{} {bits:x}", node.spec),
                Kind::Prim(prim, inputs) => writeln!(key, "{} {prim:?} {inputs:?}", node.spec),
                Kind::Op { op, inputs, .. } => {
                    writeln!(key, "{} {} {:?} {inputs:?}", node.spec, kind(op.as_ref()), op.words())
                }
            };
        }
        key
    }

    /// How many times each value is used by what the outputs depend on; 0 for what they do not.
    pub(super) fn uses(&self) -> Vec<usize> {
        let mut uses = vec![0; self.nodes.len()];
        self.outputs.iter().for_each(|&i| uses[i] += 1);
        for (i, node) in self.nodes.iter().enumerate().rev() {
            if uses[i] > 0 {
                node.inputs().iter().for_each(|&x| uses[x] += 1);
            }
        }
        uses
    }

    /// Drops what the outputs do not depend on.
    pub(super) fn compact(&mut self) {
        let uses = self.uses();
        let mut renamed = vec![0; self.nodes.len()];
        let mut kept = 0;
        for (i, &count) in uses.iter().enumerate() {
            renamed[i] = kept;
            kept += usize::from(count > 0);
        }
        let mut live = uses.iter().map(|&count| count > 0);
        self.nodes.retain(|_| live.next() == Some(true));
        for node in &mut self.nodes {
            if let Kind::Prim(_, inputs) | Kind::Op { inputs, .. } = &mut node.kind {
                inputs.iter_mut().for_each(|x| *x = renamed[*x]);
            }
        }
        self.outputs.iter_mut().for_each(|x| *x = renamed[*x]);
    }
}

/// What tells ops of one name from several crates apart.
fn kind(op: &dyn Op) -> String {
    format!("{} {:?}", op.name(), op.type_id())
}

/// The kernel for an op, if there is one where it would run. Nothing is tried on a device yet: rules may replace
/// the op. See [`all_trusted`](super::check::all_trusted).
pub(super) fn choose(
    op: &Arc<dyn Op>,
    inputs: &[Spec],
    output: &Spec,
    target: &Target<'_>,
) -> Option<Chosen> {
    let chosen = match target.caps {
        None if inputs.len() > MAX_INPUTS => None,
        None => op.cpu(inputs).map(Chosen::Cpu),
        Some(caps) => {
            let site = Site { inputs, output, caps };
            let alike = format!("{} {:?} {inputs:?} {output:?}", kind(op.as_ref()), op.words());
            let mut known = target.chosen.borrow_mut();
            let linked = known.entry(alike).or_insert_with(|| choose_on(op.as_ref(), &site, target));
            linked.clone().map(Chosen::Gpu)
        }
    };
    if chosen.is_none() {
        log::debug!("{} has no kernel for {inputs:?}: its meaning is planned", op.name());
    }
    chosen
}

fn choose_on(op: &dyn Op, site: &Site<'_>, target: &Target<'_>) -> Option<Arc<Linked>> {
    let usable = |k: &Kernel| target.gpu.is_none_or(|gpu| !is_refused(k, gpu));
    let best = op.kernels(site).into_iter().find(usable);
    let tuned = best.as_ref().zip(target.gpu).and_then(|(k, gpu)| instead(op, site, k, gpu));
    tuned.or(best).map(|kernel| Arc::new(kernel.into()))
}
