//! Operations that have earned kernels.
//!
//! An [`Op`] is a formula of primitives ([`Op::meaning`]) with, optionally, hand-written WGSL kernels and
//! a native CPU kernel that compute the same thing faster. From that one declaration come the shape rule
//! (the shape of the meaning), the reference (interpret the meaning), the fallback (plan the meaning), the
//! tests and the benchmarks (every [`Case`] on every kernel). The crate's own ops use this trait and have
//! no private door.

use crate::array::MLXArray;
use crate::dtype::Dtype;
use crate::gpu::{Bind, Caps, Dispatch};
use crate::wgsl::{File, Source, link};
use std::any::Any;
use std::fmt;

/// Shape and dtype of a value, without the value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Spec {
    /// Sizes of the axes, outermost first.
    pub dims: Vec<usize>,
    /// Element type.
    pub dtype: Dtype,
}

impl Spec {
    /// A spec from its parts.
    pub fn new(dims: &[usize], dtype: Dtype) -> Self {
        Self { dims: dims.to_vec(), dtype }
    }

    /// Number of elements.
    pub fn size(&self) -> usize {
        self.dims.iter().product()
    }

    /// Bytes of the elements, packed.
    pub fn bytes(&self) -> usize {
        self.size() * self.dtype.size()
    }

    /// Size of an axis counted from the last: `axis(1)` is the last, `axis(2)` the one before it.
    ///
    /// # Panics
    /// If there are fewer axes.
    #[track_caller]
    pub fn axis(&self, from_last: usize) -> usize {
        self.dims[self.dims.len() - from_last]
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.dims)
    }
}

/// Where a kernel would run: what comes in, what goes out, and what the adapter can do. Pure data, so
/// choosing and linking kernels needs no GPU.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// The inputs, contiguous, in the order of [`Op::meaning`].
    pub inputs: &'a [Spec],
    /// The output.
    pub output: &'a Spec,
    /// The adapter.
    pub caps: &'a Caps,
}

/// A value of a kernel's `Params` struct.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Word {
    /// `u32`
    U32(u32),
    /// `f32`
    F32(f32),
}

impl Word {
    /// The 32 bits as the GPU sees them.
    pub fn bits(self) -> u32 {
        match self {
            Self::U32(v) => v,
            Self::F32(v) => v.to_bits(),
        }
    }
}

impl fmt::Display for Word {
    /// As WGSL spells it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::U32(v) => write!(f, "{v}u"),
            Self::F32(v) => write!(f, "{v:e}f"),
        }
    }
}

impl From<u32> for Word {
    fn from(v: u32) -> Self {
        Self::U32(v)
    }
}

impl From<f32> for Word {
    fn from(v: f32) -> Self {
        Self::F32(v)
    }
}

impl From<usize> for Word {
    /// Sizes beyond `u32` saturate; such tensors are refused by the adapter's limits long before.
    fn from(v: usize) -> Self {
        Self::U32(u32::try_from(v).unwrap_or(u32::MAX))
    }
}

/// What a binding of a stage refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg {
    /// A whole input; among the writes, one that [`Op::updates`] changes.
    Input(usize),
    /// Bytes `offset .. offset + bytes` of an input; the offset is a multiple of 256.
    InputPart {
        /// Which input.
        index: usize,
        /// First byte.
        offset: u64,
        /// Length in bytes.
        bytes: u64,
    },
    /// The output (for an in-place op: also the operand it overwrites).
    Output,
    /// One of the kernel's scratch buffers.
    Scratch(usize),
}

/// One dispatch of a kernel: linked files, bindings in order (reads, writes, then `params`), grid.
#[derive(Clone, Debug, Default)]
pub struct Stage {
    /// Name in printed recordings and profiles.
    pub name: &'static str,
    /// WGSL files that are linked together.
    pub files: Vec<&'static File>,
    /// WGSL printed for this use, appended to the files.
    pub generated: String,
    /// Values of `override` constants.
    pub constants: Vec<(&'static str, f64)>,
    /// Bindings `0 ..`: `var<storage, read>`.
    pub reads: Vec<Arg>,
    /// The next bindings: `var<storage, read_write>`.
    pub writes: Vec<Arg>,
    /// Members of the `Params` struct in order, bound last as `var<uniform>`; none, no binding.
    pub params: Vec<(&'static str, Word)>,
    /// Whether the parameters are constants of the shader instead: a pipeline for every shape, and nothing to
    /// fetch before a kernel can begin.
    pub baked: bool,
    /// Workgroups per dimension, each at most 65535.
    pub grid: [u32; 3],
}

/// One way of computing an op on a GPU.
#[derive(Clone, Debug, Default)]
pub struct Kernel {
    /// Sizes in bytes of buffers that live only between the stages.
    pub scratch: Vec<u64>,
    /// Dispatches in order; each sees what the earlier ones wrote.
    pub stages: Vec<Stage>,
    /// How coarsely the kernel rounds inputs on its way, relative to their greatest neighbours; 0 if only as
    /// f32 does.
    pub rounding: f32,
}

impl Stage {
    /// The shader.
    #[doc(hidden)]
    pub fn source(&self) -> Source {
        if !self.baked {
            return link(&self.files, &self.generated);
        }
        let values: Vec<String> = self.params.iter().map(|(_, word)| word.to_string()).collect();
        let params = format!("const params = Params({});\n", values.join(", "));
        link(&self.files, &format!("{}{params}", self.generated))
    }

    /// The stage as GPU work over these bindings.
    #[doc(hidden)]
    pub fn dispatch(&self, name: &str, binds: Vec<Bind>) -> Dispatch {
        self.dispatch_of(self.source(), name, binds)
    }

    /// [`Stage::dispatch`] with the shader that [`Stage::source`] gave before.
    pub(crate) fn dispatch_of(&self, source: Source, name: &str, binds: Vec<Bind>) -> Dispatch {
        let params = if self.baked { &[][..] } else { &self.params };
        Dispatch {
            name: name.to_string(),
            source,
            constants: self.constants.clone(),
            binds,
            params: params.iter().map(|(_, word)| word.bits()).collect(),
            grid: self.grid,
        }
    }
}

/// Workgroups along one dimension that every adapter takes.
pub(crate) const GRID: usize = 65535;

/// A grid of at least `groups` workgroups, two-dimensional where one dimension is too short, and how many
/// lie along x: a kernel's `stride`.
pub(crate) fn spread(groups: usize) -> ([u32; 3], usize) {
    let rows = groups.div_ceil(GRID).max(1);
    let columns = groups.div_ceil(rows).max(1);
    ([columns as u32, rows as u32, 1], columns)
}

impl From<Stage> for Kernel {
    fn from(stage: Stage) -> Self {
        Self { stages: vec![stage], ..Self::default() }
    }
}

/// An input of a CPU kernel: bytes and what they are.
#[derive(Clone, Copy, Debug)]
pub struct HostRef<'a> {
    /// The elements, packed, aligned to 4 bytes.
    pub bytes: &'a [u8],
    /// Shape and dtype.
    pub spec: &'a Spec,
}

impl<'a> HostRef<'a> {
    /// The elements as `T` (`f32`, `u32`, `u16` for the 16-bit floats).
    ///
    /// # Panics
    /// If `T`'s size is not that of the dtype.
    #[track_caller]
    pub fn as_slice<T: bytemuck::Pod>(&self) -> &'a [T] {
        assert_eq!(size_of::<T>(), self.spec.dtype.size(), "read {} as {} bytes", self.spec, size_of::<T>());
        bytemuck::cast_slice(self.bytes)
    }
}

/// The output of a CPU kernel.
#[derive(Debug)]
pub struct HostMut<'a> {
    /// The elements, packed, aligned to 4 bytes.
    pub bytes: &'a mut [u8],
    /// Shape and dtype.
    pub spec: &'a Spec,
}

impl HostMut<'_> {
    /// The elements as `T`.
    ///
    /// # Panics
    /// If `T`'s size is not that of the dtype.
    #[track_caller]
    pub fn as_mut_slice<T: bytemuck::Pod>(&mut self) -> &mut [T] {
        assert_eq!(size_of::<T>(), self.spec.dtype.size(), "write {} as {} bytes", self.spec, size_of::<T>());
        bytemuck::cast_slice_mut(self.bytes)
    }
}

/// A native kernel, ready to run any number of times. An in-place operand is left out of the inputs.
pub type CpuKernel = Box<dyn Fn(&[HostRef<'_>], HostMut<'_>) + Send + Sync>;

/// A formula of primitives that has earned kernels. The struct that implements it is its parameters.
pub trait Op: Any + fmt::Debug + Send + Sync {
    /// The op's name, snake case.
    fn name(&self) -> &'static str;

    /// The parameters as words: with the name and the inputs' specs they decide the plan.
    fn words(&self) -> Vec<Word>;

    /// The formula. Also the shape rule, the reference and the fallback. May panic with a clear message
    /// when the inputs do not fit: that is a bug of whoever built the graph.
    fn meaning(&self, inputs: &[MLXArray]) -> MLXArray;

    /// WGSL kernels that can run at this site, best first. None: the meaning is planned instead.
    fn kernels(&self, _site: &Site<'_>) -> Vec<Kernel> {
        Vec::new()
    }

    /// A small case that runs the code of kernels for inputs of these specs, for a trial where none of the op's listed
    /// cases does.
    fn small(&self, _inputs: &[Spec]) -> Option<Case> {
        None
    }

    /// Other arrangements of the best kernel, for a tuner to choose from.
    fn variants(&self, _site: &Site<'_>) -> Vec<Kernel> {
        Vec::new()
    }

    /// A native kernel for inputs of these specs, 8 at most. None: the meaning is planned instead.
    fn cpu(&self, _inputs: &[Spec]) -> Option<CpuKernel> {
        None
    }

    /// The input that the output overwrites, if any: a cache that rows are written into. Kernels bind it
    /// once, as the output.
    fn in_place(&self) -> Option<usize> {
        None
    }

    /// Inputs that change besides the output, each with the formula of what it holds afterwards, as an op
    /// does that writes a cache on its way. They must be arrays made to change; kernels bind them as writes.
    /// There is no fallback: such an op is only planned where it has a kernel.
    fn updates(&self, _inputs: &[MLXArray]) -> Vec<(usize, MLXArray)> {
        Vec::new()
    }
}

/// One use of an op that is worth testing and timing.
#[derive(Debug)]
pub struct Case {
    /// The op with its parameters.
    pub op: std::sync::Arc<dyn Op>,
    /// What it is given.
    pub inputs: Vec<Fill>,
    /// Length of the longest sum in the formula: the tolerance grows with its root.
    pub reduction: usize,
}

impl Case {
    /// Shape and dtype of the result.
    pub fn output(&self) -> Spec {
        let inputs: Vec<MLXArray> =
            self.inputs.iter().map(|fill| MLXArray::placeholder(fill.spec())).collect();
        self.op.meaning(&inputs).spec().clone()
    }

    /// The kernels of an adapter for this case, best first.
    pub fn kernels(&self, caps: &Caps) -> Vec<Kernel> {
        let inputs: Vec<Spec> = self.inputs.iter().map(Fill::spec).collect();
        self.op.kernels(&Site { inputs: &inputs, output: &self.output(), caps })
    }

    /// Other arrangements of the best of them.
    pub fn variants(&self, caps: &Caps) -> Vec<Kernel> {
        let inputs: Vec<Spec> = self.inputs.iter().map(Fill::spec).collect();
        self.op.variants(&Site { inputs: &inputs, output: &self.output(), caps })
    }
}

/// How a test fills an input.
#[derive(Clone, Debug)]
pub enum Fill {
    /// Normally distributed values, non-uniform over rows.
    Normal(Spec),
    /// The same, every third row times 2^17: more than f16 holds.
    Wide(Spec),
    /// Random bits (packed weights).
    Bits(Spec),
    /// Random integers below the bound.
    Below(Spec, u32),
    /// These integers as u32.
    U32(Vec<usize>, Vec<u32>),
    /// These values as f32.
    F32(Vec<usize>, Vec<f32>),
}

impl Fill {
    /// The spec of the filled input.
    pub fn spec(&self) -> Spec {
        match self {
            Self::Normal(s) | Self::Wide(s) | Self::Bits(s) | Self::Below(s, _) => s.clone(),
            Self::U32(dims, _) => Spec::new(dims, Dtype::U32),
            Self::F32(dims, _) => Spec::new(dims, Dtype::F32),
        }
    }
}
