//! [`MLXArray`]: a value that may not exist yet.
//!
//! An array is a node of a lazy graph: shape, dtype and device are known at once, elements when somebody
//! looks. Cloning shares the node. Evaluation is written in `plan/`; constructors and shape rules are
//! here, formulas in `formula.rs`.

use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::layout::{ArrayShape, checked_size};
use crate::memory::Buffer;
use crate::op::{Op, Spec};
use crate::prim::{Fold, Prim, Typing};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

/// Where an array lives and is computed.
///
/// On unified-memory adapters the CPU maps the GPU's buffers, so moving an array is a plain copy; on discrete
/// ones it goes through a staging buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Device {
    /// Native kernels.
    CPU,
    /// WGSL kernels through wgpu.
    GPU,
}

impl Device {
    /// `"CPU"` or `"GPU"`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CPU => "CPU",
            Self::GPU => "GPU",
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An n-dimensional array, perhaps not computed yet. Clone is free; `Send + Sync`.
#[derive(Clone)]
pub struct MLXArray(pub(crate) Arc<Node>);

pub(crate) struct Node {
    pub(crate) id: u64,
    pub(crate) spec: Spec,
    pub(crate) device: Device,
    /// Its buffer may be overwritten in place: a cache, or an input of a [`Program`](crate::plan::Program).
    pub(crate) mutable: bool,
    pub(crate) state: RwLock<State>,
}

/// What a node is at the moment.
#[derive(Clone)]
pub(crate) enum State {
    Lazy(Arc<Expr>),
    Ready(Buffer),
}

/// How a value that does not exist yet comes to be.
pub(crate) enum Expr {
    /// The bits of one value, as wide as the node's dtype.
    Scalar(u32),
    Prim(Prim, Vec<MLXArray>),
    Op {
        op: Arc<dyn Op>,
        inputs: Vec<MLXArray>,
        meaning: MLXArray,
    },
}

impl Expr {
    /// The arrays this one is computed from.
    pub(crate) fn inputs(&self) -> &[MLXArray] {
        match self {
            Self::Scalar(_) => &[],
            Self::Prim(_, inputs) | Self::Op { inputs, .. } => inputs,
        }
    }
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl MLXArray {
    pub(crate) fn from_state(spec: Spec, device: Device, state: State) -> Self {
        Self(Arc::new(Node { id: next_id(), spec, device, mutable: false, state: RwLock::new(state) }))
    }

    /// A zeroed array whose buffer in-place ops and [`MLXArray::overwrite`] may change: plans read what is
    /// there when they run.
    ///
    /// # Errors
    /// No adapter, or not enough memory.
    pub(crate) fn mutable(dims: &[usize], dtype: Dtype, device: Device) -> Result<Self> {
        let spec = Spec::new(dims, dtype);
        let state = RwLock::new(State::Ready(Buffer::zeroed(spec.bytes(), device)?));
        Ok(Self(Arc::new(Node { id: next_id(), spec, device, mutable: true, state })))
    }

    /// Replaces the first elements of a mutable array.
    ///
    /// # Errors
    /// Not a mutable array, too many bytes, or a device that does not answer.
    pub(crate) fn overwrite(&self, bytes: &[u8]) -> Result<()> {
        match self.buffer() {
            Some(buffer) if self.0.mutable && bytes.len() <= self.nbytes() => buffer.write(bytes),
            _ => Err(Error::input(format!("{} bytes cannot overwrite {self:?}", bytes.len()))),
        }
    }

    /// An array over a buffer that already holds its elements.
    pub(crate) fn from_buffer(spec: Spec, buffer: Buffer) -> Self {
        let device = buffer.device();
        Self::from_state(spec, device, State::Ready(buffer))
    }

    #[track_caller]
    fn lazy(spec: Spec, device: Device, expr: Expr) -> Self {
        let bytes = checked_size(&spec.dims).and_then(|n| n.checked_mul(spec.dtype.size()));
        assert!(bytes.is_some(), "{spec} has more bytes than a usize can count");
        Self::from_state(spec, device, State::Lazy(Arc::new(expr)))
    }

    /// One value of 32 bits that kernels know as a literal.
    pub(crate) fn scalar_bits(bits: u32, dtype: Dtype) -> Self {
        Self::lazy(Spec::new(&[], dtype), Device::CPU, Expr::Scalar(bits))
    }

    /// An array of which only the spec matters.
    pub(crate) fn placeholder(spec: Spec) -> Self {
        Self::lazy(spec, Device::CPU, Expr::Scalar(0))
    }

    /// A 0-dimensional constant; it follows the other operand's device.
    ///
    /// Like a number in an expression it becomes part of the plan, and on a GPU of the kernel's text. A number that
    /// changes from call to call is better an array of one element: then nothing is planned or compiled anew.
    pub fn scalar(value: f32) -> Self {
        Self::scalar_bits(value.to_bits(), Dtype::F32)
    }

    /// `0, 1, .., n - 1` as u32.
    #[track_caller]
    pub fn iota(n: usize) -> Self {
        Self::lazy(Spec::new(&[n], Dtype::U32), Device::CPU, Expr::Prim(Prim::Iota, Vec::new()))
    }

    /// Applies an op: the lazy result has the shape and dtype of its meaning.
    ///
    /// # Panics
    /// As the op's meaning does when the inputs do not fit.
    #[track_caller]
    pub fn apply(op: impl Op, inputs: &[&MLXArray]) -> Self {
        Self::apply_shared(Arc::new(op), inputs)
    }

    /// [`MLXArray::apply`] for an op that is already shared.
    #[track_caller]
    pub fn apply_shared(op: Arc<dyn Op>, inputs: &[&MLXArray]) -> Self {
        let inputs: Vec<Self> = inputs.iter().map(|&x| x.clone()).collect();
        let meaning = op.meaning(&inputs);
        let device = device_of(&inputs);
        Self::lazy(meaning.0.spec.clone(), device, Expr::Op { op, inputs, meaning })
    }

    /// A primitive of these inputs.
    #[track_caller]
    pub(crate) fn prim(prim: Prim, inputs: Vec<Self>) -> Self {
        let specs: Vec<&Spec> = inputs.iter().map(|x| &x.0.spec).collect();
        let spec = result_spec(&prim, &specs);
        let device = device_of(&inputs);
        Self::lazy(spec, device, Expr::Prim(prim, inputs))
    }

    /// The array's unique number.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// Sizes of the axes.
    ///
    /// # Panics
    /// If a formula made more than four axes; [`MLXArray::dims`] has them all.
    pub fn shape(&self) -> ArrayShape {
        ArrayShape::from_dims(self.dims()).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Sizes of the axes, outermost first.
    pub fn dims(&self) -> &[usize] {
        &self.0.spec.dims
    }

    /// Element type.
    pub fn dtype(&self) -> Dtype {
        self.0.spec.dtype
    }

    /// Shape and dtype.
    pub fn spec(&self) -> &Spec {
        &self.0.spec
    }

    /// Where it lives, or will.
    pub fn device(&self) -> Device {
        self.0.device
    }

    /// Number of elements.
    pub fn size(&self) -> usize {
        self.0.spec.size()
    }

    /// Bytes of the elements.
    pub fn nbytes(&self) -> usize {
        self.0.spec.bytes()
    }

    pub(crate) fn state(&self) -> State {
        self.0.state.read().unwrap_or_else(|e| e.into_inner()).clone()
    }

    pub(crate) fn set_ready(&self, buffer: Buffer) {
        *self.0.state.write().unwrap_or_else(|e| e.into_inner()) = State::Ready(buffer);
    }

    /// The buffer, if the elements exist.
    pub(crate) fn buffer(&self) -> Option<Buffer> {
        match self.state() {
            State::Ready(buffer) => Some(buffer),
            State::Lazy(_) => None,
        }
    }
}

impl fmt::Debug for MLXArray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lazy = if self.buffer().is_some() { "" } else { ", lazy" };
        write!(f, "MLXArray({} on {}{lazy})", self.0.spec, self.0.device)
    }
}

// A chain of a million lazy nodes must not drop by a million nested calls.
impl Drop for Node {
    fn drop(&mut self) {
        let mut stack = Vec::new();
        take_inputs(self, &mut stack);
        while let Some(MLXArray(node)) = stack.pop() {
            if let Some(mut node) = Arc::into_inner(node) {
                take_inputs(&mut node, &mut stack);
            }
        }
    }
}

fn take_inputs(node: &mut Node, stack: &mut Vec<MLXArray>) {
    let state = node.state.get_mut().unwrap_or_else(|e| e.into_inner());
    if let State::Lazy(expr) = std::mem::replace(state, State::Lazy(Arc::new(Expr::Scalar(0)))) {
        match Arc::into_inner(expr) {
            Some(Expr::Prim(_, inputs)) => stack.extend(inputs),
            Some(Expr::Op { inputs, meaning, .. }) => {
                stack.extend(inputs);
                stack.push(meaning);
            }
            Some(Expr::Scalar(_)) | None => {}
        }
    }
}

/// The GPU if any operand is there: constants and small CPU arrays follow.
fn device_of(inputs: &[MLXArray]) -> Device {
    if inputs.iter().any(|x| x.device() == Device::GPU) { Device::GPU } else { Device::CPU }
}

/// Checks the length of data for a shape.
pub(crate) fn check_len(len: usize, dims: &[usize]) -> Result<()> {
    match checked_size(dims) {
        Some(n) if n == len => Ok(()),
        Some(n) => Err(Error::input(format!("shape {dims:?} has {n} elements, the data has {len}"))),
        None => Err(Error::input(format!("shape {dims:?} has more elements than a usize can count"))),
    }
}

/// Shape and dtype of a primitive's result.
#[track_caller]
fn result_spec(prim: &Prim, x: &[&Spec]) -> Spec {
    match prim {
        Prim::Iota => unreachable!("iota carries its own shape"),
        Prim::Cast(dtype) => Spec::new(&x[0].dims, *dtype),
        Prim::Map(fun) => {
            let row = fun.row();
            assert_eq!(x.len(), row.arity, "{fun:?} takes {} inputs", row.arity);
            for s in x {
                assert_eq!(s.dims, x[0].dims, "{fun:?} of {} and {}", x[0], x[x.len() - 1]);
                assert_eq!(s.dtype, x[0].dtype, "{fun:?} of {} and {}", x[0], x[x.len() - 1]);
            }
            let dtype = match row.typing {
                Typing::Float => Dtype::F32,
                Typing::Same => x[0].dtype,
                Typing::Compare | Typing::Bits => Dtype::U32,
            };
            let takes = match row.typing {
                Typing::Float => x[0].dtype == Dtype::F32,
                Typing::Bits => x[0].dtype == Dtype::U32,
                Typing::Same | Typing::Compare => matches!(x[0].dtype, Dtype::F32 | Dtype::U32),
            };
            assert!(takes, "{fun:?} does not take {}", x[0].dtype);
            Spec::new(&x[0].dims, dtype)
        }
        Prim::Select => {
            assert_eq!(x[0].dtype, Dtype::U32, "select: the condition is {}, not u32", x[0].dtype);
            assert!(x[0].dims == x[1].dims && x[1] == x[2], "select of {}, {} and {}", x[0], x[1], x[2]);
            x[1].clone()
        }
        Prim::Reduce(fold, axis) => {
            assert!(*axis < x[0].dims.len(), "{fold:?} over axis {axis} of {}", x[0]);
            assert!(
                x[0].dtype == Dtype::F32 || (x[0].dtype == Dtype::U32 && *fold != Fold::Sum),
                "{fold:?} does not take {}",
                x[0].dtype
            );
            let mut dims = x[0].dims.clone();
            dims[*axis] = 1;
            Spec::new(&dims, x[0].dtype)
        }
        Prim::View(layout) => Spec::new(&layout.shape, x[0].dtype),
        Prim::Gather(axis) => {
            assert!(*axis < x[0].dims.len(), "gather along axis {axis} of {}", x[0]);
            assert_eq!(x[1].dtype, Dtype::U32, "gather: indices are {}, not u32", x[1].dtype);
            let mut dims = x[0].dims[..*axis].to_vec();
            dims.extend(&x[1].dims);
            dims.extend(&x[0].dims[axis + 1..]);
            Spec::new(&dims, x[0].dtype)
        }
        Prim::Write => {
            let fits = x[1].dims.len() == x[0].dims.len()
                && x[1].dims[1..] == x[0].dims[1..]
                && x[2].dims == x[1].dims[..1]
                && x[2].dtype == Dtype::U32
                && x[1].dtype == x[0].dtype;
            assert!(fits, "write rows {} at {} into {}", x[1], x[2], x[0]);
            x[0].clone()
        }
        Prim::Matmul => {
            let (a, b) = (&x[0].dims, &x[1].dims);
            let n = a.len();
            let fits = n >= 2
                && b.len() == n
                && a[..n - 2] == b[..n - 2]
                && a[n - 1] == b[n - 2]
                && x.iter().all(|s| s.dtype == Dtype::F32);
            assert!(fits, "matmul of {} and {}", x[0], x[1]);
            let mut dims = a.clone();
            dims[n - 1] = b[n - 1];
            Spec::new(&dims, Dtype::F32)
        }
        Prim::TopK(k) => {
            let mut dims = x[0].dims.clone();
            let last = dims.last_mut().unwrap_or_else(|| panic!("top-k of a scalar"));
            assert!(*k <= *last && x[0].dtype == Dtype::F32, "top {k} of {}", x[0]);
            *last = *k;
            Spec::new(&dims, Dtype::F32)
        }
    }
}
