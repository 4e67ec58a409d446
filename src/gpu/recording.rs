//! GPU work as plain, printable data.
//!
//! A [`Recording`] is a list of steps over numbered buffers ("slots"). It holds no GPU object: it can
//! be built without an adapter, printed, compared and committed. [`Gpu::prepare`](super::Gpu::prepare)
//! turns it into pipelines and bind groups once; after that it is replayed as often as wanted.
//!
//! Convention of every kernel: entry point `main`, group 0, bindings in the order of
//! [`Dispatch::binds`] (inputs are `read`, outputs `read_write`), then, if there are any, the
//! parameters as one `var<uniform>`.

use std::fmt;

use crate::wgsl::Source;

/// Steps that run one after another; each sees what earlier ones wrote.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recording {
    /// How many bytes each slot needs.
    pub(crate) buffers: Vec<u64>,
    /// What is done, in order.
    pub(crate) steps: Vec<Step>,
}

/// One thing the GPU does.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Run a kernel.
    Dispatch(Dispatch),
    /// Copy between two slots; offsets and length are multiples of 4.
    Copy {
        /// Slot that is read.
        src: usize,
        /// First byte read.
        src_offset: u64,
        /// Slot that is written; not `src`.
        dst: usize,
        /// First byte written.
        dst_offset: u64,
        /// How many.
        bytes: u64,
    },
}

/// A kernel and all it needs.
#[derive(Clone, Debug)]
pub(crate) struct Dispatch {
    /// For people: printed in errors, listings and timings.
    pub(crate) name: String,
    /// The shader.
    pub(crate) source: Source,
    /// Values for its `override` constants.
    pub(crate) constants: Vec<(&'static str, f64)>,
    /// Its storage buffers, in binding order.
    pub(crate) binds: Vec<Bind>,
    /// Its uniform parameters as 32-bit words, bound last; may be empty.
    pub(crate) params: Vec<u32>,
    /// Workgroups along x, y, z.
    pub(crate) grid: [u32; 3],
}

/// A range of a slot as a kernel sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bind {
    /// Which buffer.
    pub(crate) slot: usize,
    /// First byte; a multiple of the device's offset alignment.
    pub(crate) offset: u64,
    /// Length; `arrayLength` in the kernel follows from it.
    pub(crate) bytes: u64,
    /// `read_write` in the shader, else `read`.
    pub(crate) write: bool,
}

impl fmt::Display for Recording {
    /// One line per step: `name  [grid]  in in -> out  (params)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Dispatch(dispatch) => dispatch.fmt(f),
            Step::Copy { src, src_offset, dst, dst_offset, bytes } => {
                write!(f, "copy  {src}[{src_offset}..+{bytes}] -> {dst}[{dst_offset}..]")
            }
        }
    }
}

impl fmt::Display for Dispatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.grid;
        write!(f, "{}  [{x} {y} {z}] ", self.name)?;
        let side = |f: &mut fmt::Formatter<'_>, write: bool| {
            self.binds.iter().filter(|bind| bind.write == write).try_for_each(|bind| match bind.offset {
                0 => write!(f, " {}", bind.slot),
                offset => write!(f, " {}[{offset}..]", bind.slot),
            })
        };
        side(f, false)?;
        f.write_str(" ->")?;
        side(f, true)?;
        if !self.params.is_empty() {
            write!(f, "  {:?}", self.params)?;
        }
        for (name, value) in &self.constants {
            write!(f, "  {name}={value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_one_line_per_step() {
        let bind = |slot, offset, write| Bind { slot, offset, bytes: 64, write };
        let dispatch = Dispatch {
            name: "add".into(),
            source: crate::wgsl::link(&[], ""),
            constants: vec![("WG", 64.0)],
            binds: vec![bind(0, 0, false), bind(1, 256, false), bind(2, 0, true)],
            params: vec![16, 7],
            grid: [2, 1, 1],
        };
        let copy = Step::Copy { src: 2, src_offset: 0, dst: 0, dst_offset: 4, bytes: 60 };
        let recording = Recording { buffers: vec![64, 512, 64], steps: vec![Step::Dispatch(dispatch), copy] };
        let expected = "add  [2 1 1]  0 1[256..] -> 2  [16, 7]  WG=64\ncopy  2[0..+60] -> 0[4..]\n";
        assert_eq!(recording.to_string(), expected);
    }
}
