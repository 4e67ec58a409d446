//! Formulas: what can be written with arrays.
//!
//! Every method builds a node of the lazy graph from primitives and computes nothing. Shapes broadcast as
//! in NumPy; 16-bit floats and signed integers are widened to f32 before arithmetic. A shape that does not fit panics where it
//! is written, with both shapes: that is a bug of the formula, not of the data.

use crate::array::MLXArray;
use crate::dtype::Dtype;
use crate::layout::{Layout, broadcast_shape, checked_size};
use crate::prim::{Fold, Fun, Prim, Typing};
use std::ops::{Add, BitAnd, BitOr, Div, Mul, Neg, Sub};

/// The index of what there is not, and so the token where no logit is a number.
pub(crate) const NO_INDEX: u32 = u32::MAX;

impl MLXArray {
    /// The same values as another dtype; floats are rounded to nearest even, floats to integers truncate. What an integer
    /// cannot hold becomes whatever the device makes of it.
    pub fn astype(&self, dtype: Dtype) -> Self {
        if self.dtype() == dtype { self.clone() } else { Self::prim(Prim::Cast(dtype), vec![self.clone()]) }
    }

    fn widened(&self) -> Self {
        match self.dtype() {
            Dtype::F16 | Dtype::BF16 | Dtype::I32 => self.astype(Dtype::F32),
            Dtype::U8 => self.astype(Dtype::U32),
            Dtype::F32 | Dtype::U32 => self.clone(),
        }
    }

    fn floats(&self) -> Self {
        self.widened().astype(Dtype::F32)
    }

    fn unary(&self, fun: Fun) -> Self {
        let x = if fun.row().typing == Typing::Float { self.floats() } else { self.widened() };
        Self::prim(Prim::Map(fun), vec![x])
    }

    #[track_caller]
    fn binary(&self, fun: Fun, other: &Self) -> Self {
        let shape = broadcast_shape(self.dims(), other.dims()).unwrap_or_else(|| {
            panic!("{fun:?}: shapes {:?} and {:?} do not broadcast", self.dims(), other.dims())
        });
        let [a, b] = [self, other].map(|x| match (fun.row().typing, x.dtype()) {
            (Typing::Bits, Dtype::I32) => x.astype(Dtype::U32),
            _ => x.widened(),
        });
        let mixed = a.dtype() != b.dtype() && fun.row().typing != Typing::Bits;
        let [a, b] = if mixed || fun.row().typing == Typing::Float {
            [a, b].map(|x| x.astype(Dtype::F32))
        } else {
            [a, b]
        };
        Self::prim(Prim::Map(fun), vec![a.broadcast_to(&shape), b.broadcast_to(&shape)])
    }

    #[track_caller]
    fn view(&self, layout: Layout) -> Self {
        Self::prim(Prim::View(layout), vec![self.clone()])
    }

    fn layout(&self) -> Layout {
        Layout::contiguous(self.dims())
    }

    /// Repeats axes of size 1 and adds leading axes until the shape is `dims`.
    ///
    /// # Panics
    /// If another axis differs.
    #[track_caller]
    pub fn broadcast_to(&self, dims: &[usize]) -> Self {
        if self.dims() == dims {
            return self.clone();
        }
        let layout = self.layout().broadcast(dims);
        self.view(layout.unwrap_or_else(|| panic!("cannot broadcast {:?} to {dims:?}", self.dims())))
    }

    /// The same elements in row-major order under another shape.
    ///
    /// # Panics
    /// If the number of elements differs.
    #[track_caller]
    pub fn reshape(&self, dims: &[usize]) -> Self {
        if self.dims() == dims {
            return self.clone();
        }
        assert_eq!(checked_size(dims), Some(self.size()), "reshape {:?} to {dims:?}", self.dims());
        self.view(Layout::contiguous(dims))
    }

    /// Axes in a new order: axis `i` of the result is axis `axes[i]` of this.
    ///
    /// # Panics
    /// If `axes` is not a permutation.
    #[track_caller]
    pub fn transpose(&self, axes: &[usize]) -> Self {
        let mut sorted = axes.to_vec();
        sorted.sort_unstable();
        assert!(sorted.iter().copied().eq(0..self.dims().len()), "transpose {axes:?} of {:?}", self.dims());
        self.view(self.layout().permute(axes))
    }

    /// The last two axes swapped.
    #[track_caller]
    pub fn t(&self) -> Self {
        let n = self.dims().len();
        assert!(n >= 2, "t() of {:?}", self.dims());
        let mut axes: Vec<usize> = (0..n).collect();
        axes.swap(n - 1, n - 2);
        self.transpose(&axes)
    }

    /// Entries `start .. start + len` of an axis.
    ///
    /// # Panics
    /// If they are not all there.
    #[track_caller]
    pub fn slice(&self, axis: usize, start: usize, len: usize) -> Self {
        assert!(axis < self.dims().len(), "slice axis {axis} of {:?}", self.dims());
        self.view(self.layout().slice(axis, start, len))
    }

    /// Entries of an axis by u32 indices, whose shape replaces the axis; an index past the end reads 0.
    #[track_caller]
    pub fn take(&self, indices: &Self, axis: usize) -> Self {
        Self::prim(Prim::Gather(axis), vec![self.clone(), indices.clone()])
    }

    /// This array with its entries `indices[i]` along axis 0 replaced by `rows[i]`; an index past the end
    /// is skipped. No index may occur twice: which row stays then depends on the device. On a GPU a row has a multiple
    /// of 4 bytes, or evaluation fails.
    #[track_caller]
    pub fn put(&self, rows: &Self, indices: &Self) -> Self {
        Self::prim(Prim::Write, vec![self.clone(), rows.astype(self.dtype()), indices.clone()])
    }

    /// `self` where the u32 condition is not 0, else `other`.
    #[track_caller]
    pub fn where_(&self, condition: &Self, other: &Self) -> Self {
        let fit = |a: &[usize], b: &[usize]| broadcast_shape(a, b);
        let shape =
            fit(self.dims(), other.dims()).and_then(|s| fit(&s, condition.dims())).unwrap_or_else(|| {
                panic!("where_: {:?}, {:?}, {:?}", condition.dims(), self.dims(), other.dims())
            });
        let parts = [condition, self, other].map(|x| x.broadcast_to(&shape));
        Self::prim(Prim::Select, parts.to_vec())
    }

    /// Sum over an axis, kept with size 1. Taken in f64 by the reference, in f32 by kernels.
    #[track_caller]
    pub fn sum(&self, axis: usize) -> Self {
        Self::prim(Prim::Reduce(Fold::Sum, axis), vec![self.floats()])
    }

    /// Mean over an axis, kept with size 1.
    #[track_caller]
    pub fn mean(&self, axis: usize) -> Self {
        &self.sum(axis) * (1.0 / self.dims()[axis] as f32)
    }

    /// Greatest element over an axis, kept with size 1. What is not a number does not count.
    #[track_caller]
    pub fn max(&self, axis: usize) -> Self {
        Self::prim(Prim::Reduce(Fold::Max, axis), vec![self.widened()])
    }

    /// Least element over an axis, kept with size 1. What is not a number does not count.
    #[track_caller]
    pub fn min(&self, axis: usize) -> Self {
        Self::prim(Prim::Reduce(Fold::Min, axis), vec![self.widened()])
    }

    /// Matrix product over the last two axes, in f32; leading axes broadcast.
    #[track_caller]
    pub fn matmul(&self, other: &Self) -> Self {
        let (a, b) = (self.floats(), other.floats());
        let (da, db) = (a.dims().to_vec(), b.dims().to_vec());
        assert!(da.len() >= 2 && db.len() >= 2, "matmul of {da:?} and {db:?}");
        let lead = broadcast_shape(&da[..da.len() - 2], &db[..db.len() - 2])
            .unwrap_or_else(|| panic!("matmul: leading axes of {da:?} and {db:?} do not broadcast"));
        let full = |d: &[usize]| [lead.as_slice(), &d[d.len() - 2..]].concat();
        Self::prim(Prim::Matmul, vec![a.broadcast_to(&full(&da)), b.broadcast_to(&full(&db))])
    }

    /// The `k` greatest of the last axis, descending, in f32; all must be numbers.
    #[track_caller]
    pub fn topk(&self, k: usize) -> Self {
        Self::prim(Prim::TopK(k), vec![self.floats()])
    }

    /// Index (u32) of the greatest element of the last axis, the first of equals; the axis goes away. `u32::MAX` where no element
    /// is a number.
    #[track_caller]
    pub fn argmax(&self) -> Self {
        assert!(!self.dims().is_empty(), "argmax of a scalar");
        let last = self.dims().len() - 1;
        let n = self.dims()[last];
        let hit = self.equal(&self.max(last));
        let index = Self::iota(n).where_(&hit, &Self::scalar_bits(NO_INDEX, Dtype::U32));
        index.min(last).reshape(&self.dims()[..last])
    }

    /// Softmax over an axis, shifted by the maximum so that it never overflows.
    #[track_caller]
    pub fn softmax(&self, axis: usize) -> Self {
        let x = self.floats();
        let e = (&x - &x.max(axis)).exp();
        let sum = e.sum(axis);
        &e / &sum
    }

    /// `1 / (1 + exp(-x))`
    pub fn sigmoid(&self) -> Self {
        let one = Self::scalar(1.0);
        &one / &((-self).exp() + 1.0)
    }

    /// `x^2`
    pub fn square(&self) -> Self {
        self * self
    }

    /// `a < b` as u32 0 or 1.
    #[track_caller]
    pub fn less(&self, other: &Self) -> Self {
        self.binary(Fun::Lt, other)
    }

    /// `a <= b` as u32 0 or 1.
    #[track_caller]
    pub fn less_equal(&self, other: &Self) -> Self {
        self.binary(Fun::Le, other)
    }

    /// `a == b` as u32 0 or 1.
    #[track_caller]
    pub fn equal(&self, other: &Self) -> Self {
        self.binary(Fun::Eq, other)
    }

    /// Elementwise greater of two; the one that is a number, if one is.
    #[track_caller]
    pub fn maximum(&self, other: &Self) -> Self {
        self.binary(Fun::Max, other)
    }

    /// Elementwise lesser of two; the one that is a number, if one is.
    #[track_caller]
    pub fn minimum(&self, other: &Self) -> Self {
        self.binary(Fun::Min, other)
    }

    /// u32 bits shifted left; 32 and more give 0.
    #[track_caller]
    pub fn shl(&self, bits: &Self) -> Self {
        self.binary(Fun::Shl, bits)
    }

    /// u32 bits shifted right; 32 and more give 0.
    #[track_caller]
    pub fn shr(&self, bits: &Self) -> Self {
        self.binary(Fun::Shr, bits)
    }

    /// A u32 constant.
    pub fn scalar_u32(value: u32) -> Self {
        Self::scalar_bits(value, Dtype::U32)
    }
}

macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident $fun:ident;)*) => { impl MLXArray { $($(#[$doc])* pub fn $name(&self) -> Self { self.unary(Fun::$fun) })* } };
}
unary! {
    /// `e^x`
    exp Exp;
    /// Natural logarithm.
    log Log;
    /// Square root.
    sqrt Sqrt;
    /// `1 / sqrt(x)`
    rsqrt Rsqrt;
    /// Absolute value.
    abs Abs;
    /// Sine, accurate for large arguments.
    sin Sin;
    /// Cosine, accurate for large arguments.
    cos Cos;
    /// Hyperbolic tangent.
    tanh Tanh;
    /// Error function.
    erf Erf;
    /// Greatest integer not above.
    floor Floor;
}

macro_rules! operators {
    ($($op:ident $method:ident $fun:ident;)*) => { $(
        impl $op for &MLXArray {
            type Output = MLXArray;
            #[track_caller]
            fn $method(self, other: Self) -> MLXArray { self.binary(Fun::$fun, other) }
        }
        impl $op for MLXArray {
            type Output = Self;
            #[track_caller]
            fn $method(self, other: Self) -> Self { self.binary(Fun::$fun, &other) }
        }
        impl $op<&Self> for MLXArray {
            type Output = Self;
            #[track_caller]
            fn $method(self, other: &Self) -> Self { self.binary(Fun::$fun, other) }
        }
        impl $op<MLXArray> for &MLXArray {
            type Output = MLXArray;
            #[track_caller]
            fn $method(self, other: MLXArray) -> MLXArray { self.binary(Fun::$fun, &other) }
        }
    )* };
    (scalar $($op:ident $method:ident $fun:ident;)*) => { $(
        impl $op<f32> for &MLXArray {
            type Output = MLXArray;
            fn $method(self, value: f32) -> MLXArray { self.binary(Fun::$fun, &MLXArray::scalar(value)) }
        }
        impl $op<f32> for MLXArray {
            type Output = Self;
            fn $method(self, value: f32) -> Self { self.binary(Fun::$fun, &Self::scalar(value)) }
        }
        impl $op<&MLXArray> for f32 {
            type Output = MLXArray;
            fn $method(self, other: &MLXArray) -> MLXArray { MLXArray::scalar(self).binary(Fun::$fun, other) }
        }
        impl $op<MLXArray> for f32 {
            type Output = MLXArray;
            fn $method(self, other: MLXArray) -> MLXArray { self.$method(&other) }
        }
    )* };
}
operators! { Add add Add; Sub sub Sub; Mul mul Mul; Div div Div; BitAnd bitand And; BitOr bitor Or; }
operators! { scalar Add add Add; Sub sub Sub; Mul mul Mul; Div div Div; }

impl Neg for &MLXArray {
    type Output = MLXArray;
    fn neg(self) -> MLXArray {
        self.unary(Fun::Neg)
    }
}

impl Neg for MLXArray {
    type Output = Self;
    fn neg(self) -> Self {
        -&self
    }
}
