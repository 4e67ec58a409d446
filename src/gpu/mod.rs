//! Everything that touches wgpu, and nothing that knows an array.
//!
//! - [`Gpu`] is an open device. [`Caps`] says what it can do.
//! - [`Buffer`] is a piece of its memory, written and read through the same calls whether the CPU maps
//!   it or a copy goes through staging.
//! - [`Recording`] is work as plain data; [`Gpu::prepare`] makes it ready once ([`Prepared`]) and
//!   [`Gpu::run`] submits it as often as wanted, without waiting. [`Pending`] is a result on its way back.
//!
//! Nothing here panics because of a device: loss, lack of memory, hangs and refused kernels are errors,
//! and every wait ends.

mod caps;
mod chips;
mod counters;
mod device;
mod disk;
mod encode;
mod fragments;
mod memory;
mod open;
#[cfg(test)]
mod open_tests;
mod pipeline;
mod readback;
#[cfg(test)]
mod readback_tests;
mod recording;
#[cfg(test)]
mod tests;
mod timing;
mod transfer;
#[cfg(any(windows, target_os = "linux", target_os = "android", target_os = "freebsd"))]
mod vulkan;

pub use caps::{Caps, Tier};
pub(crate) use counters::{Counters, Spent, counters};
pub use device::{Gpu, Ticket};
pub(crate) use disk::{unkept, write_whole};
pub use encode::Prepared;
pub use memory::Buffer;
pub use open::{Options, or_skip};
pub use readback::Pending;
pub use recording::{Bind, Dispatch, Recording, Step};
pub(crate) use timing::{Detail, Seen, Timed, watch};
