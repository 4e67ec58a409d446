//! From a prompt to an answer, token by token.
//!
//! [`Runner`](runner::Runner) puts tokens through the model: the prompt in chunks, then one at a time by a
//! program that is planned once and replayed. [`Generator`] decides when to stop and is an iterator of token
//! ids; [`TextStream`] turns them into text and looks for stop strings. [`Batch`] advances several sequences
//! together. A [`LogitsHook`] takes part in the choice of each token.
//!
//! Generators and batches are made of [`sequence`]s, each with its [`sampler`]; [`decode`] is what a step leaves on
//! the device, [`room`] shares the cache's pages out among a batch, [`pace`] keeps submissions short. [`whole`] looks
//! at texts instead of continuing them; [`fit`] says what a model needs before it is loaded.

mod batch;
mod decode;
mod fit;
mod generator;
mod hook;
mod options;
mod pace;
#[cfg(test)]
mod pages_tests;
mod room;
mod runner;
mod sampler;
mod sequence;
#[cfg(test)]
mod tests;
mod text;
mod whole;

pub use batch::{Batch, BatchItem};
pub use fit::Fit;
pub use generator::{FinishReason, Generator, Stats};
pub use hook::LogitsHook;
pub use options::GenerateOptions;
pub(crate) use pace::chunk_on;
#[cfg(feature = "serve")]
pub(crate) use room::common;
pub use text::TextStream;
#[cfg(feature = "serve")]
pub(crate) use text::{certain, first_stop};
pub use whole::{each_logits, hidden_states, logits, logits_after};
