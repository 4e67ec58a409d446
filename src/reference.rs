//! The interpreter: what everything means.
//!
//! Slow, obvious, exact: it knows the primitives and only these, keeps whole values in vectors, rounds to
//! f32 after each primitive and sums in f64. Every kernel is tested against it.

use crate::array::{Expr, MLXArray, State};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::layout::Layout;
use crate::op::Spec;
use crate::prim::{Fold, Prim};
use half::{bf16, f16};
use std::collections::HashMap;

/// A value of the interpreter: f32 for every float dtype (already rounded to it), u32 for integers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Values {
    F(Vec<f32>),
    U(Vec<u32>),
}

impl Values {
    fn f(&self) -> &[f32] {
        match self {
            Self::F(v) => v,
            Self::U(_) => unreachable!("an integer where the shape rule admits only floats"),
        }
    }

    fn u(&self) -> &[u32] {
        match self {
            Self::U(v) => v,
            Self::F(_) => unreachable!("a float where the shape rule admits only integers"),
        }
    }

    /// Reads packed elements.
    pub(crate) fn from_bytes(bytes: &[u8], dtype: Dtype) -> Self {
        let pair = |c: &[u8]| u16::from_le_bytes([c[0], c[1]]);
        let word = |c: &[u8]| u32::from_le_bytes([c[0], c[1], c[2], c[3]]);
        match dtype {
            Dtype::F32 => Self::F(bytes.chunks_exact(4).map(|c| f32::from_bits(word(c))).collect()),
            Dtype::F16 => Self::F(bytes.chunks_exact(2).map(|c| f16::from_bits(pair(c)).to_f32()).collect()),
            Dtype::BF16 => {
                Self::F(bytes.chunks_exact(2).map(|c| bf16::from_bits(pair(c)).to_f32()).collect())
            }
            Dtype::U32 | Dtype::I32 => Self::U(bytes.chunks_exact(4).map(word).collect()),
            Dtype::U8 => Self::U(bytes.iter().map(|&b| u32::from(b)).collect()),
        }
    }

    /// Writes packed elements.
    pub(crate) fn to_bytes(&self, dtype: Dtype, out: &mut [u8]) {
        match (self, dtype) {
            (Self::F(v), Dtype::F16) => {
                out.chunks_exact_mut(2)
                    .zip(v)
                    .for_each(|(o, &x)| o.copy_from_slice(&f16::from_f32(x).to_le_bytes()));
            }
            (Self::F(v), Dtype::BF16) => {
                out.chunks_exact_mut(2)
                    .zip(v)
                    .for_each(|(o, &x)| o.copy_from_slice(&bf16::from_f32(x).to_le_bytes()));
            }
            (Self::F(v), _) => {
                out.chunks_exact_mut(4).zip(v).for_each(|(o, x)| o.copy_from_slice(&x.to_le_bytes()))
            }
            (Self::U(v), Dtype::U8) => out.iter_mut().zip(v).for_each(|(o, &x)| *o = x as u8),
            (Self::U(v), _) => {
                out.chunks_exact_mut(4).zip(v).for_each(|(o, x)| o.copy_from_slice(&x.to_le_bytes()))
            }
        }
    }

    fn pick(&self, at: impl Iterator<Item = Option<usize>>) -> Self {
        match self {
            Self::F(v) => Self::F(at.map(|i| i.map_or(0.0, |i| v[i])).collect()),
            Self::U(v) => Self::U(at.map(|i| i.map_or(0, |i| v[i])).collect()),
        }
    }
}

/// Evaluates an array by the definition alone: ops by their meaning, primitives one by one.
///
/// # Errors
/// A buffer that cannot be read back from its device.
pub(crate) fn eval(array: &MLXArray) -> Result<Values> {
    let mut done: HashMap<u64, Values> = HashMap::new();
    let mut stack = vec![(array.clone(), false)];
    while let Some((node, expanded)) = stack.pop() {
        if done.contains_key(&node.id()) {
            continue;
        }
        let expr = match node.state() {
            State::Ready(buffer) => {
                let mut bytes = vec![0; node.nbytes()];
                buffer.read(&mut bytes)?;
                done.insert(node.id(), Values::from_bytes(&bytes, node.dtype()));
                continue;
            }
            State::Lazy(expr) => expr,
        };
        let inputs: &[MLXArray] = match &*expr {
            Expr::Op { meaning, .. } => std::slice::from_ref(meaning),
            other => other.inputs(),
        };
        if !expanded {
            stack.push((node, true));
            stack.extend(inputs.iter().map(|x| (x.clone(), false)));
            continue;
        }
        let value = match &*expr {
            Expr::Op { meaning, .. } => done[&meaning.id()].clone(),
            Expr::Scalar(bits) => scalar(*bits, node.dtype()),
            Expr::Prim(prim, inputs) => {
                let values: Vec<_> = inputs.iter().map(|x| (&done[&x.id()], x.spec())).collect();
                apply(prim, &values, node.spec())
            }
        };
        done.insert(node.id(), value);
    }
    Ok(done.remove(&array.id()).unwrap_or(Values::F(Vec::new())))
}

/// The value of a literal.
pub(crate) fn scalar(bits: u32, dtype: Dtype) -> Values {
    if dtype.is_float() { Values::F(vec![f32::from_bits(bits)]) } else { Values::U(vec![bits]) }
}

/// One primitive on whole values.
pub(crate) fn apply(prim: &Prim, x: &[(&Values, &Spec)], out: &Spec) -> Values {
    match prim {
        Prim::Iota => Values::U((0..out.size() as u32).collect()),
        Prim::Cast(dtype) => cast(x[0].0, x[0].1.dtype, *dtype),
        Prim::Map(fun) => {
            let row = fun.row();
            let second = x[x.len() - 1].0;
            match (x[0].0, second) {
                (Values::F(a), Values::F(b)) => {
                    let y = a.iter().zip(b).map(|(&a, &b)| (row.f32)(a, b));
                    if out.dtype == Dtype::U32 {
                        Values::U(y.map(|y| y as u32).collect())
                    } else {
                        Values::F(y.collect())
                    }
                }
                (a, b) => Values::U(a.u().iter().zip(b.u()).map(|(&a, &b)| (row.u32)(a, b)).collect()),
            }
        }
        Prim::Select => {
            let c = x[0].0.u();
            match (x[1].0, x[2].0) {
                (Values::F(a), Values::F(b)) => Values::F(
                    c.iter().zip(a.iter().zip(b)).map(|(&c, (&a, &b))| if c != 0 { a } else { b }).collect(),
                ),
                (a, b) => Values::U(
                    c.iter()
                        .zip(a.u().iter().zip(b.u()))
                        .map(|(&c, (&a, &b))| if c != 0 { a } else { b })
                        .collect(),
                ),
            }
        }
        Prim::Reduce(fold, axis) => reduce(*fold, *axis, x[0]),
        Prim::View(layout) => x[0].0.pick((0..layout.size()).map(|i| Some(layout.address(i)))),
        Prim::Gather(axis) => gather(*axis, x[0], x[1].0.u()),
        Prim::Write => write(x[0].0, x[1].0, x[2].0.u(), x[0].1),
        Prim::Matmul => matmul(x[0], x[1]),
        Prim::TopK(k) => {
            let n = *x[0].1.dims.last().unwrap_or(&1);
            let rows = x[0].0.f().chunks_exact(n.max(1));
            let top = |row: &[f32]| {
                let mut row = row.to_vec();
                row.sort_by(|a, b| b.total_cmp(a));
                row.truncate(*k);
                row
            };
            Values::F(rows.flat_map(top).collect())
        }
    }
}

fn cast(x: &Values, from: Dtype, to: Dtype) -> Values {
    match (x, to) {
        (Values::F(v), Dtype::F16) => Values::F(v.iter().map(|&x| f16::from_f32(x).to_f32()).collect()),
        (Values::F(v), Dtype::BF16) => Values::F(v.iter().map(|&x| bf16::from_f32(x).to_f32()).collect()),
        (Values::F(v), Dtype::F32) => Values::F(v.clone()),
        (Values::F(v), Dtype::I32) => Values::U(v.iter().map(|&x| x as i32 as u32).collect()),
        (Values::F(v), _) => Values::U(v.iter().map(|&x| x as u32).collect()),
        (Values::U(v), t) if t.is_float() => {
            let wide =
                v.iter().map(|&x| if from == Dtype::I32 { x as i32 as f32 } else { x as f32 }).collect();
            cast(&Values::F(wide), Dtype::F32, t)
        }
        (Values::U(v), Dtype::U8) => Values::U(v.iter().map(|&x| x & 255).collect()),
        (Values::U(v), _) => Values::U(v.clone()),
    }
}

fn reduce(fold: Fold, axis: usize, (x, spec): (&Values, &Spec)) -> Values {
    let mut dims = spec.dims.clone();
    let n = std::mem::replace(&mut dims[axis], 1);
    let lines = {
        let full = Layout::contiguous(&spec.dims);
        let step = full.strides[axis];
        let starts = full.slice(axis, 0, n.min(1));
        (0..dims.iter().product()).map(move |i| (if n == 0 { 0 } else { starts.address(i) }, step))
    };
    match x {
        Values::F(v) => Values::F(
            lines
                .map(|(start, step)| {
                    let line = (0..n).map(|j| v[start + j * step]);
                    match fold {
                        Fold::Sum => line.map(f64::from).sum::<f64>() as f32,
                        Fold::Max => line.fold(f32::NEG_INFINITY, f32::max),
                        Fold::Min => line.fold(f32::INFINITY, f32::min),
                    }
                })
                .collect(),
        ),
        Values::U(v) => Values::U(
            lines
                .map(|(start, step)| {
                    let line = (0..n).map(|j| v[start + j * step]);
                    match fold {
                        Fold::Sum => line.fold(0, u32::wrapping_add),
                        Fold::Max => line.max().unwrap_or(0),
                        Fold::Min => line.min().unwrap_or(u32::MAX),
                    }
                })
                .collect(),
        ),
    }
}

fn gather(axis: usize, (x, spec): (&Values, &Spec), indices: &[u32]) -> Values {
    let n = spec.dims[axis];
    let before: usize = spec.dims[..axis].iter().product();
    let after: usize = spec.dims[axis + 1..].iter().product();
    let at = (0..before).flat_map(|b| {
        indices.iter().flat_map(move |&i| {
            (0..after).map(move |a| ((i as usize) < n).then(|| (b * n + i as usize) * after + a))
        })
    });
    x.pick(at)
}

fn write(base: &Values, rows: &Values, indices: &[u32], spec: &Spec) -> Values {
    let width: usize = spec.dims[1..].iter().product();
    let place = |i: usize| Some(indices[i] as usize).filter(|&to| to < spec.dims[0]);
    let mut out = base.clone();
    for i in 0..indices.len() {
        let Some(to) = place(i) else { continue };
        let (from, to) = (i * width..(i + 1) * width, to * width..(to + 1) * width);
        match (&mut out, rows) {
            (Values::F(o), Values::F(r)) => o[to].copy_from_slice(&r[from]),
            (Values::U(o), Values::U(r)) => o[to].copy_from_slice(&r[from]),
            _ => unreachable!("the shape rule demands equal dtypes"),
        }
    }
    out
}

fn matmul((a, sa): (&Values, &Spec), (b, sb): (&Values, &Spec)) -> Values {
    let (m, k, n) = (sa.axis(2), sa.axis(1), sb.axis(1));
    let batch: usize = sa.dims[..sa.dims.len() - 2].iter().product();
    let (a, b) = (a.f(), b.f());
    let mut y = Vec::with_capacity(batch * m * n);
    let mut row = vec![0f64; n];
    for i in 0..batch * m {
        row.fill(0.0);
        for p in 0..k {
            let x = f64::from(a[i * k + p]);
            let line = &b[((i / m) * k + p) * n..][..n];
            row.iter_mut().zip(line).for_each(|(y, &w)| *y += x * f64::from(w));
        }
        y.extend(row.iter().map(|&v| v as f32));
    }
    Values::F(y)
}
