//! The `unimlx` command: a plot of subcommands, each told in its own file under `cli/`.

mod cli;

use clap::Parser;
use cli::{Args, Command};
use std::process::ExitCode;

fn main() -> ExitCode {
    cli::log();
    let outcome = match Args::parse().command {
        Command::Generate(options) => cli::generate(&options),
        Command::Chat(options) => cli::chat(&options),
        #[cfg(feature = "serve")]
        Command::Serve(options) => cli::serve(&options),
        Command::Info(options) => cli::info(&options),
        Command::Fit(options) => cli::fit(&options),
        Command::Bench(options) => cli::bench(&options),
        Command::Logits(options) => cli::logits(&options),
    };
    cli::exit(outcome)
}
