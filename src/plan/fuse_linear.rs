//! Rules around a linear layer, where a dispatch of few rows costs as much as a small matrix: a norm before it, a gate
//! or a residual sum after it.

use super::fuse::{Matcher, Rewrite};
use super::graph::Kind;
use crate::ops::{Gate, Linear, RmsNorm};
use crate::prim::{Fun, Prim};
use std::sync::Arc;

/// `gate(y[.., ..n], y[.., n..])` of one linear layer `y`: the layer does both.
pub(super) fn gate(m: &Matcher<'_>, at: usize) -> Option<Rewrite> {
    let (gate, halves) = m.op::<Gate>(at)?;
    let (y, first) = m.view(halves[0])?;
    let (same, second) = m.view(halves[1])?;
    let (linear, inputs) = m.op::<Linear>(y)?;
    let [_, n] = *m.spec(y).dims else { return None };
    let half = |layout: &crate::layout::Layout, offset| {
        layout.offset == offset && layout.shape == m.spec(at).dims && layout.strides == [n, 1]
    };
    let whole = same == y && 2 * m.spec(at).axis(1) == n && half(first, 0) && half(second, n / 2);
    let fits = whole && m.uses(y) == 2 && linear.gate.is_none() && !linear.residual;
    fits.then(|| rewrite(Linear { gate: Some(gate.kind), ..linear.clone() }, inputs.to_vec()))
}

/// `linear(norm(x))`: each row is divided by its root mean square after the product.
pub(super) fn norm(m: &Matcher<'_>, at: usize) -> Option<Rewrite> {
    let (linear, inputs) = m.op::<Linear>(at)?;
    let (norm, of) = m.op::<RmsNorm>(inputs[0])?;
    if linear.norm.is_some() {
        return None;
    }
    let mut inputs = inputs.to_vec();
    inputs[0] = of[0];
    inputs.insert(1, of[1]);
    Some(rewrite(Linear { norm: Some(norm.eps), ..linear.clone() }, inputs))
}

/// `x + linear(y)`, either way around.
pub(super) fn residual(m: &Matcher<'_>, at: usize) -> Option<Rewrite> {
    let Kind::Prim(Prim::Map(Fun::Add), terms) = &m.graph.nodes[at].kind else { return None };
    let (y, x) = match m.op::<Linear>(terms[1]) {
        Some(_) => (terms[1], terms[0]),
        None => (terms[0], terms[1]),
    };
    let (linear, inputs) = m.op::<Linear>(y)?;
    let fits = m.uses(y) == 1 && !linear.residual && m.spec(x) == m.spec(at) && m.spec(y) == m.spec(at);
    fits.then(|| {
        let inputs = inputs.iter().copied().chain([x]).collect();
        rewrite(Linear { residual: true, ..linear.clone() }, inputs)
    })
}

fn rewrite(op: Linear, inputs: Vec<usize>) -> Rewrite {
    (Arc::new(op), inputs)
}
