//! Expressions as WGSL. The only place that prints shader code.
//!
//! A pointwise value is a function of its flat row-major index. [`Printer::value`] walks from a value to
//! the buffers it reads and prints one `let` per step: views become index arithmetic, functions come from
//! the table in `prim.rs`, a gather is a load at a computed index.

use super::graph::{Graph, Kind};
use crate::dtype::Dtype;
use crate::layout::Layout;
use crate::prim::Prim;
use std::collections::HashMap;
use std::fmt::Write;

/// Prints one function body.
pub(super) struct Printer<'a> {
    graph: &'a Graph,
    /// Which values are in buffers.
    stored: &'a [bool],
    /// The buffers read so far, in binding order.
    pub(super) reads: Vec<usize>,
    body: String,
    lets: usize,
    known: HashMap<(usize, String), String>,
}

impl<'a> Printer<'a> {
    pub(super) fn new(graph: &'a Graph, stored: &'a [bool]) -> Self {
        Self { graph, stored, reads: Vec::new(), body: String::new(), lets: 0, known: HashMap::new() }
    }

    /// From now on element `index` of a value is called `name`.
    pub(super) fn name(&mut self, node: usize, index: &str, name: &str) {
        self.known.insert((node, index.to_string()), name.to_string());
    }

    /// The statements printed since the last call; names do not carry over.
    pub(super) fn take_body(&mut self) -> String {
        self.known.clear();
        std::mem::take(&mut self.body)
    }

    fn bind(&mut self, expression: &str) -> String {
        let name = format!("v{}", self.lets);
        self.lets += 1;
        let _ = writeln!(self.body, "    let {name} = {expression};");
        name
    }

    /// The binding of a buffer.
    pub(super) fn read(&mut self, node: usize) -> usize {
        self.reads.iter().position(|&n| n == node).unwrap_or_else(|| {
            self.reads.push(node);
            self.reads.len() - 1
        })
    }

    /// Prints what computes element `index` of a value; returns the name that holds it. `root` forces the
    /// value's own expression even if it is to be stored.
    pub(super) fn value(&mut self, node: usize, index: &str, root: bool) -> String {
        let memo = (node, index.to_string());
        if let Some(name) = self.known.get(&memo) {
            return name.clone();
        }
        let graph = self.graph;
        let spec = &graph.nodes[node].spec;
        let expression = if self.stored[node] && !root {
            let binding = self.read(node);
            load(binding, spec.dtype, index)
        } else {
            match &graph.nodes[node].kind {
                Kind::Scalar(bits) => literal(*bits, spec.dtype),
                Kind::Prim(prim, inputs) => self.primitive(prim, inputs, index),
                Kind::Leaf { .. } | Kind::Op { .. } => unreachable!("leaves and ops are stored"),
            }
        };
        let name = self.bind(&expression);
        self.known.insert(memo, name.clone());
        name
    }

    fn primitive(&mut self, prim: &Prim, inputs: &[usize], index: &str) -> String {
        match prim {
            Prim::Iota => index.to_string(),
            Prim::Cast(to) => {
                let from = self.graph.nodes[inputs[0]].spec.dtype;
                let x = self.value(inputs[0], index, false);
                cast(&x, from, *to)
            }
            Prim::Map(fun) => {
                let a = self.value(inputs[0], index, false);
                let b = inputs.get(1).map(|&i| self.value(i, index, false));
                spell(fun.row().wgsl, &a, b.as_deref().unwrap_or(""))
            }
            Prim::Select => {
                let c = self.value(inputs[0], index, false);
                let a = self.value(inputs[1], index, false);
                let b = self.value(inputs[2], index, false);
                format!("select({b}, {a}, {c} != 0u)")
            }
            Prim::View(layout) => {
                let at = self.address(layout, index);
                self.value(inputs[0], &at, false)
            }
            Prim::Gather(axis) => self.gather(*axis, inputs, index),
            Prim::Reduce(..) | Prim::Write | Prim::Matmul | Prim::TopK(_) => unreachable!("not pointwise"),
        }
    }

    fn gather(&mut self, axis: usize, inputs: &[usize], index: &str) -> String {
        let dims = &self.graph.nodes[inputs[0]].spec.dims;
        let count = self.graph.nodes[inputs[1]].spec.size().max(1);
        let (n, after) = (dims[axis], dims[axis + 1..].iter().product::<usize>().max(1));
        let row = self.bind(&quotient(index, after));
        let which = self.bind(&remainder(&row, count));
        let chosen = self.value(inputs[1], &which, false);
        let before = quotient(&row, count);
        let inside = remainder(index, after);
        let last = n.saturating_sub(1);
        let at = self.bind(&format!("(({before}) * {n}u + min({chosen}, {last}u)) * {after}u + {inside}"));
        let value = self.value(inputs[0], &at, false);
        let zero = if self.graph.nodes[inputs[0]].spec.dtype.is_float() { "0.0" } else { "0u" };
        format!("select({zero}, {value}, {chosen} < {n}u)")
    }

    /// Index arithmetic of a view: axes that lie next to each other in memory count as one.
    fn address(&mut self, layout: &Layout, index: &str) -> String {
        if layout.is_contiguous() && layout.offset == 0 {
            return index.to_string();
        }
        // Nobody asks for an element of none, and an axis of none divides nothing.
        if layout.size() == 0 {
            return "0u".to_string();
        }
        let mut axes: Vec<(usize, usize)> = Vec::new();
        for (&n, &stride) in layout.shape.iter().zip(&layout.strides) {
            match axes.last_mut() {
                _ if n == 1 => {}
                Some((outer, step)) if *step == stride * n => {
                    *outer *= n;
                    *step = stride;
                }
                _ => axes.push((n, stride)),
            }
        }
        let mut terms = Vec::new();
        let mut inner = 1;
        for (i, &(n, stride)) in axes.iter().enumerate().rev() {
            if stride != 0 {
                let q = quotient(index, inner);
                let part = if i == 0 { q } else { remainder(&q, n) };
                terms.push(if stride == 1 { part } else { format!("({part}) * {stride}u") });
            }
            inner *= n;
        }
        if layout.offset != 0 || terms.is_empty() {
            terms.push(format!("{}u", layout.offset));
        }
        if terms.len() == 1 && terms[0] == index { index.to_string() } else { self.bind(&terms.join(" + ")) }
    }
}

fn quotient(x: &str, by: usize) -> String {
    if by == 1 { x.to_string() } else { format!("({x}) / {by}u") }
}

fn remainder(x: &str, by: usize) -> String {
    if by == 1 { "0u".to_string() } else { format!("({x}) % {by}u") }
}

/// A row of the function table with its arguments put in; `a` and `b` stand alone in it.
fn spell(pattern: &str, a: &str, b: &str) -> String {
    let alone = |at: usize| {
        let near = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
        !near(pattern[..at].chars().next_back()) && !near(pattern[at + 1..].chars().next())
    };
    pattern
        .char_indices()
        .map(|(at, c)| match c {
            'a' if alone(at) => a.to_string(),
            'b' if alone(at) => b.to_string(),
            c => c.to_string(),
        })
        .collect()
}

/// The WGSL type that holds a value of this dtype in an expression.
pub(super) fn scalar_type(dtype: Dtype) -> &'static str {
    if dtype.is_float() { "f32" } else { "u32" }
}

fn literal(bits: u32, dtype: Dtype) -> String {
    if !dtype.is_float() {
        return format!("{bits}u");
    }
    let value = f32::from_bits(bits);
    // WGSL has no literal for infinities and NaN, and constant evaluation refuses to make one. What a compiler makes of
    // a division by a zero that it sees is its own affair.
    if value.is_finite() && value != 0.0 {
        format!("f32({value:?}f)")
    } else {
        format!("bitcast<f32>(params.zero + {bits}u)")
    }
}

fn load(binding: usize, dtype: Dtype, i: &str) -> String {
    match dtype {
        Dtype::F32 | Dtype::U32 | Dtype::I32 => format!("in{binding}[{i}]"),
        Dtype::F16 => format!("half_at(in{binding}[({i}) >> 1u], {i})"),
        Dtype::BF16 => format!("brain_at(in{binding}[({i}) >> 1u], {i})"),
        Dtype::U8 => format!("byte_at(in{binding}[({i}) >> 2u], {i})"),
    }
}

fn cast(x: &str, from: Dtype, to: Dtype) -> String {
    let wide = match (from.is_float(), to.is_float()) {
        (false, true) if from == Dtype::I32 => format!("f32(bitcast<i32>({x}))"),
        (false, true) => format!("f32({x})"),
        (true, false) if to == Dtype::I32 => format!("bitcast<u32>(i32({x}))"),
        (true, false) => format!("u32({x})"),
        _ => x.to_string(),
    };
    match to {
        Dtype::F16 => format!("half_at(to_half({wide}), 0u)"),
        Dtype::BF16 => format!("brain_at(to_brain({wide}), 0u)"),
        Dtype::U8 => format!("({wide} & 255u)"),
        Dtype::F32 | Dtype::U32 | Dtype::I32 => wide,
    }
}

/// Bindings of `reads`, the output and `params`, and `store(i)`, which writes word `i` of the output from
/// `value(element)`.
pub(super) fn declarations(graph: &Graph, reads: &[usize], output: Dtype, params: &str) -> String {
    let mut text = String::new();
    for (i, &node) in reads.iter().enumerate() {
        let word = if graph.nodes[node].spec.dtype == Dtype::F32 { "f32" } else { "u32" };
        let _ = writeln!(text, "@group(0) @binding({i}) var<storage, read> in{i}: array<{word}>;");
    }
    let (at, word) = (reads.len(), if output == Dtype::F32 { "f32" } else { "u32" });
    let _ = writeln!(text, "@group(0) @binding({at}) var<storage, read_write> out: array<{word}>;");
    let _ = writeln!(text, "struct Params {{ {params} }}");
    let _ = writeln!(text, "@group(0) @binding({}) var<uniform> params: Params;", at + 1);
    let store = match output {
        Dtype::F32 | Dtype::U32 | Dtype::I32 => "out[i] = value(i);",
        Dtype::F16 => "out[i] = to_half(at(2u * i)) | (to_half(at(2u * i + 1u)) << 16u);",
        Dtype::BF16 => "out[i] = to_brain(at(2u * i)) | (to_brain(at(2u * i + 1u)) << 16u);",
        Dtype::U8 => {
            "let e = 4u * i; out[i] = at(e) | (at(e + 1u) << 8u) | (at(e + 2u) << 16u) | (at(e + 3u) << 24u);"
        }
    };
    if output.size() < 4 {
        // The last word may be partly padding: it repeats the last element.
        let kind = scalar_type(output);
        let _ = writeln!(text, "fn at(i: u32) -> {kind} {{ return value(min(i, params.n - 1u)); }}");
    }
    let _ = writeln!(text, "fn store(i: u32) {{ {store} }}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_replace_only_lone_letters() {
        assert_eq!(
            spell("select(a >> (b & 31u), 0u, b > 31u)", "x", "y"),
            "select(x >> (y & 31u), 0u, y > 31u)"
        );
        assert_eq!(spell("abs(a)", "v0", ""), "abs(v0)");
    }

    #[test]
    fn literals_survive_a_round_trip() {
        assert_eq!(literal(0.1f32.to_bits(), Dtype::F32), "f32(0.1f)");
        assert_eq!(literal(7, Dtype::U32), "7u");
        assert!(literal(f32::NEG_INFINITY.to_bits(), Dtype::F32).starts_with("bitcast"));
    }
}
