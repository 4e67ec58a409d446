//! Rewriting: several ops that one kernel can do at once become that one op.
//!
//! A rule looks at one node of the flat graph and what feeds it, and may say which op computes the same
//! value from earlier values. The new op is an [`Op`] like any other: its meaning is what the rule replaced,
//! its kernels are tried before they are trusted, and without a kernel the rule does not apply. Elementwise
//! chains are no rules: whatever is not stored is printed into the kernel that reads it ([`expr`](super::expr)).

use super::graph::{Graph, Kind, Target, choose};
use super::{fuse_attention, fuse_linear};
use crate::layout::Layout;
use crate::op::{Op, Spec};
use crate::prim::Prim;
use std::any::Any;
use std::sync::Arc;

/// What a rule puts in a node's place: an op and its inputs, which are earlier nodes.
pub(super) type Rewrite = (Arc<dyn Op>, Vec<usize>);

/// A rule: does it apply to the node at this place?
pub(super) type Rule = fn(&Matcher<'_>, usize) -> Option<Rewrite>;

/// Every rule, applied in this order, each to all nodes.
pub(super) const RULES: &[(&str, Rule)] = &[
    ("linear, then gate", fuse_linear::gate),
    ("norm, then linear", fuse_linear::norm),
    ("linear, then sum", fuse_linear::residual),
    ("norm, rotation and cache, then attention", fuse_attention::attend),
    ("the same over a packed cache", fuse_attention::attend_packed),
];

/// The graph as rules see it.
pub(super) struct Matcher<'a> {
    pub(super) graph: &'a Graph,
    uses: &'a [usize],
}

impl<'a> Matcher<'a> {
    /// The op of a node as `T`, with its inputs.
    pub(super) fn op<T: Op>(&self, at: usize) -> Option<(&'a T, &'a [usize])> {
        match &self.graph.nodes[at].kind {
            Kind::Op { op, inputs, .. } => {
                let any: &dyn Any = &**op;
                any.downcast_ref::<T>().map(|op| (op, &inputs[..]))
            }
            _ => None,
        }
    }

    /// Shape and dtype of a node.
    pub(super) fn spec(&self, at: usize) -> &Spec {
        &self.graph.nodes[at].spec
    }

    /// How many nodes and outputs read a node.
    pub(super) fn uses(&self, at: usize) -> usize {
        self.uses[at]
    }

    /// A node seen through reshapes, slices and transpositions: what is viewed, and how.
    pub(super) fn view(&self, at: usize) -> Option<(usize, &Layout)> {
        match &self.graph.nodes[at].kind {
            Kind::Prim(Prim::View(layout), inputs) => Some((inputs[0], layout)),
            _ => None,
        }
    }
}

/// Applies every rule wherever it fits and its op has a kernel.
pub(super) fn rewrite(graph: &mut Graph, target: &Target<'_>) {
    let mut uses = graph.uses();
    for (name, rule) in RULES {
        let mut applied = 0;
        for at in 0..graph.nodes.len() {
            let found = if uses[at] > 0 { rule(&Matcher { uses: &uses, graph }, at) } else { None };
            let Some((op, inputs)) = found else { continue };
            let specs: Vec<Spec> = inputs.iter().map(|&i| graph.nodes[i].spec.clone()).collect();
            if let Some(kernel) = choose(&op, &specs, &graph.nodes[at].spec, target) {
                graph.nodes[at].kind = Kind::Op { op, inputs, kernel };
                uses = graph.uses();
                applied += 1;
            }
        }
        log::debug!("{name}: {applied} times");
    }
    graph.compact();
}
