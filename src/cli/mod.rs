//! What the subcommands share: arguments, the model they run, how they end.

mod args;
mod bench;
mod chat;
mod fit;
mod generate;
mod info;
mod logits;
mod model;
#[cfg(feature = "serve")]
mod serve;
mod terminal;

pub(crate) use args::{Args, Command};
pub(crate) use bench::bench;
pub(crate) use chat::chat;
pub(crate) use fit::fit;
pub(crate) use generate::generate;
pub(crate) use info::info;
pub(crate) use logits::logits;
#[cfg(feature = "serve")]
pub(crate) use serve::serve;
pub(crate) use terminal::{exit, log};
