//! From a lazy graph to work that runs.
//!
//! [`schedule`] walks the graph once and decides what becomes a step; [`cpu`] runs the steps with native
//! kernels. A plan depends on ops, shapes and dtypes alone, so it is kept by that structure
//! ([`cache`]) and bound to buffers as often as wanted: a [`Program`] is a plan with its buffers, replayed
//! for every token.

mod eval;
