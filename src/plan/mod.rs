//! From a lazy graph to work that runs.
//!
//! In the order of the work: [`graph`] flattens the graph and picks a kernel for each op, or its meaning; [`fuse`]
//! joins what one kernel can do at once; [`check`] tries kernels before they are trusted; [`host`] and [`gpu`] turn
//! the list into steps over buffers ([`slots`]), for native kernels or as a [`Recording`](crate::gpu::Recording);
//! [`expr`] and [`generated`] print the WGSL of whatever has no kernel of its own; [`program`] keeps plans by their
//! structure and binds them to buffers; [`eval`] is everything that looks at elements.
//!
//! Where an op has several arrangements of a kernel, [`tune`](mod@tune) can measure them; [`tuned`] remembers what it
//! found, and [`kept`] writes such findings to files.

mod check;
mod eval;
mod expr;
mod fuse;
mod fuse_attention;
mod fuse_linear;
mod generated;
mod gpu;
mod graph;
mod host;
mod kept;
mod program;
#[cfg(test)]
mod rules_tests;
mod slots;
#[cfg(test)]
mod tests;
mod tune;
#[cfg(test)]
mod tune_tests;
mod tuned;

pub(crate) use check::has_kernel;
pub use check::try_kernels;
pub(crate) use program::{Program, fuses, planning_time, recording_for};
pub use program::{eval, set_fusion};
pub(crate) use tune::tune;
pub use tune::{TriedKernel, TunedShape};
pub use tuned::tuned_shapes;
