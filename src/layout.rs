//! Shapes, and how an index becomes an address.
//!
//! [`ArrayShape`] is what users see: one to four dimensions. [`Layout`] is what views are made of:
//! shape, strides and offset over a contiguous array, with broadcast, permute and slice as pure
//! functions that never touch data.

use crate::error::{Error, Result};
use std::fmt;

/// Sizes of an array's axes, outermost first; row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ArrayShape {
    /// `n` elements.
    Shape1D(usize),
    /// `(rows, columns)`.
    Shape2D(usize, usize),
    /// Three axes.
    Shape3D(usize, usize, usize),
    /// Four axes.
    Shape4D(usize, usize, usize, usize),
}

impl ArrayShape {
    /// The axes as a vector, outermost first.
    pub fn dims(&self) -> Vec<usize> {
        match *self {
            Self::Shape1D(a) => vec![a],
            Self::Shape2D(a, b) => vec![a, b],
            Self::Shape3D(a, b, c) => vec![a, b, c],
            Self::Shape4D(a, b, c, d) => vec![a, b, c, d],
        }
    }

    /// The shape with these axes. A scalar (no axes) is one element of one axis.
    ///
    /// # Errors
    /// More than four axes.
    pub fn from_dims(dims: &[usize]) -> Result<Self> {
        match *dims {
            [] => Ok(Self::Shape1D(1)),
            [a] => Ok(Self::Shape1D(a)),
            [a, b] => Ok(Self::Shape2D(a, b)),
            [a, b, c] => Ok(Self::Shape3D(a, b, c)),
            [a, b, c, d] => Ok(Self::Shape4D(a, b, c, d)),
            _ => {
                Err(Error::input(format!("shape {dims:?} has {} axes, at most 4 are supported", dims.len())))
            }
        }
    }

    /// Number of axes.
    pub fn ndim(&self) -> usize {
        match self {
            Self::Shape1D(..) => 1,
            Self::Shape2D(..) => 2,
            Self::Shape3D(..) => 3,
            Self::Shape4D(..) => 4,
        }
    }

    /// Number of elements.
    ///
    /// # Panics
    /// If the product does not fit in a `usize`; [`ArrayShape::checked_size`] does not.
    pub fn size(&self) -> usize {
        self.checked_size().unwrap_or_else(|| panic!("shape {self} has more elements than a usize can count"))
    }

    /// Number of elements, or `None` on overflow.
    pub fn checked_size(&self) -> Option<usize> {
        checked_size(&self.dims())
    }
}

impl fmt::Display for ArrayShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

/// Product of the axes, or `None` on overflow.
pub(crate) fn checked_size(dims: &[usize]) -> Option<usize> {
    dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
}

/// Where each element of a view lies in a contiguous array, counted in elements.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Layout {
    pub(crate) shape: Vec<usize>,
    pub(crate) strides: Vec<usize>,
    pub(crate) offset: usize,
}

impl Layout {
    /// Row-major over the whole array.
    pub(crate) fn contiguous(shape: &[usize]) -> Self {
        let mut strides = vec![1; shape.len()];
        for i in (1..shape.len()).rev() {
            strides[i - 1] = strides[i] * shape[i].max(1);
        }
        Self { shape: shape.to_vec(), strides, offset: 0 }
    }

    /// Number of elements of the view.
    pub(crate) fn size(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the view is the row-major array of its own shape from its offset on.
    pub(crate) fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        for (&n, &s) in self.shape.iter().zip(&self.strides).rev() {
            if n != 1 && s != expected {
                return false;
            }
            expected *= n;
        }
        true
    }

    /// Axes in a new order.
    #[track_caller]
    pub(crate) fn permute(&self, axes: &[usize]) -> Self {
        assert_eq!(axes.len(), self.shape.len(), "permute {axes:?} of shape {:?}", self.shape);
        Self {
            shape: axes.iter().map(|&a| self.shape[a]).collect(),
            strides: axes.iter().map(|&a| self.strides[a]).collect(),
            offset: self.offset,
        }
    }

    /// Elements `start .. start + len` of one axis.
    #[track_caller]
    pub(crate) fn slice(&self, axis: usize, start: usize, len: usize) -> Self {
        assert!(
            start.checked_add(len).is_some_and(|end| end <= self.shape[axis]),
            "slice of {len} from {start} on, of axis {axis} of shape {:?}",
            self.shape
        );
        let mut out = self.clone();
        out.offset += start * self.strides[axis];
        out.shape[axis] = len;
        out
    }

    /// Repeats axes of size 1 (and adds leading axes) until the shape is `to`; `None` if it cannot be.
    pub(crate) fn broadcast(&self, to: &[usize]) -> Option<Self> {
        let lead = to.len().checked_sub(self.shape.len())?;
        let mut strides = vec![0; to.len()];
        for (i, &want) in to.iter().enumerate().skip(lead) {
            let have = self.shape[i - lead];
            strides[i] = match have {
                _ if have == want => self.strides[i - lead],
                1 => 0,
                _ => return None,
            };
        }
        Some(Self { shape: to.to_vec(), strides, offset: self.offset })
    }

    /// Address of the view's `i`-th element in row-major order.
    pub(crate) fn address(&self, mut i: usize) -> usize {
        let mut at = self.offset;
        for (&n, &s) in self.shape.iter().zip(&self.strides).rev() {
            at += (i % n) * s;
            i /= n;
        }
        at
    }
}

/// The shape that two shapes broadcast to, NumPy's rule; `None` if they do not fit.
pub(crate) fn broadcast_shape(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let n = a.len().max(b.len());
    let axis = |d: &[usize], i: usize| (i + d.len()).checked_sub(n).map_or(1, |k| d[k]);
    (0..n)
        .map(|i| match (axis(a, i), axis(b, i)) {
            (x, y) if x == y => Some(x),
            (1, y) => Some(y),
            (x, 1) => Some(x),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_address_what_they_say() {
        let l = Layout::contiguous(&[2, 3, 4]);
        assert_eq!(l.strides, [12, 4, 1]);
        let t = l.permute(&[2, 0, 1]);
        assert_eq!((t.shape.clone(), t.address(0), t.address(1), t.address(3)), (vec![4, 2, 3], 0, 4, 12));
        let s = l.slice(1, 1, 2);
        assert_eq!((s.address(0), s.address(4), s.address(8)), (4, 8, 16));
        assert!(l.is_contiguous() && !t.is_contiguous() && !s.is_contiguous());
        let b = Layout::contiguous(&[3, 1]).broadcast(&[2, 3, 5]).unwrap();
        assert_eq!((b.address(0), b.address(4), b.address(5), b.address(15)), (0, 0, 1, 0));
        assert!(Layout::contiguous(&[3]).broadcast(&[4]).is_none());
    }

    #[test]
    fn broadcasting_follows_numpy() {
        assert_eq!(broadcast_shape(&[2, 1, 3], &[4, 1]), Some(vec![2, 4, 3]));
        assert_eq!(broadcast_shape(&[2], &[3]), None);
        assert_eq!(broadcast_shape(&[], &[3]), Some(vec![3]));
    }

    #[test]
    fn shape_sizes_do_not_wrap() {
        assert_eq!(ArrayShape::Shape2D(usize::MAX, 2).checked_size(), None);
        assert!(ArrayShape::from_dims(&[1; 5]).is_err());
        assert_eq!(ArrayShape::from_dims(&[]).unwrap(), ArrayShape::Shape1D(1));
    }
}
