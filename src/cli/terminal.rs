//! The terminal: logging, progress, and how the process ends.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use unimlx::{Error, Result};

/// Warnings of the library go to standard error; `UNIMLX_LOG` says which else.
pub(crate) fn log() {
    let filter = env_logger::Env::new()
        .filter_or("UNIMLX_LOG", "warn,unimlx::serve=info,wgpu_core=error,wgpu_hal=error,naga=error");
    let line = |out: &mut env_logger::fmt::Formatter, record: &log::Record<'_>| {
        writeln!(out, "unimlx: {}", record.args())
    };
    env_logger::Builder::from_env(filter).format(line).init();
}

/// Keeps what was compiled, says what went wrong and turns it into an exit code.
pub(crate) fn exit(outcome: Result<()>) -> ExitCode {
    if let Some(gpu) = unimlx::Gpu::opened() {
        gpu.save_pipelines();
    }
    let Err(e) = outcome else { return ExitCode::SUCCESS };
    if e.is_cancelled() {
        return ExitCode::from(130);
    }
    eprintln!("unimlx: {e}");
    ExitCode::from(match () {
        () if e.is_input() => 2,
        () if e.is_format() || e.is_unsupported() => 3,
        () if e.is_device() || e.is_memory() => 4,
        () => 1,
    })
}

/// Prints to standard output at once. A reader that went away ends the program quietly.
pub(crate) fn say(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match written {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => {
            Err(Error::cancelled("nobody reads the output"))
        }
        other => other.map_err(|e| Error::io(format!("standard output: {e}"))),
    }
}

/// One line on standard error that is written over; silent where nobody looks.
pub(crate) struct Status(bool);

impl Status {
    pub(crate) fn new() -> Self {
        Self(std::io::stderr().is_terminal())
    }

    pub(crate) fn show(&self, text: &str) {
        if self.0 {
            eprint!("\r\x1b[K{text}");
        }
    }

    pub(crate) fn clear(&self) {
        self.show("");
    }
}

/// Bytes as people write them.
pub(crate) fn bytes(n: u64) -> String {
    let n = n as f64;
    match n {
        n if n >= 1e9 => format!("{:.2} GB", n / 1e9),
        n if n >= 1e6 => format!("{:.1} MB", n / 1e6),
        n if n >= 1e3 => format!("{:.1} kB", n / 1e3),
        n => format!("{n} bytes"),
    }
}
