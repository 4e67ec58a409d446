//! One error for the whole crate.
//!
//! [`Error`] is opaque: callers ask what kind of trouble it is (`is_format()`, `is_device()` ...) and
//! print it; the text names the file, field or value at fault and what was being done, outermost
//! first. Finer types would leak every dependency into the API and help nobody decide anything.

use std::fmt;
use std::sync::Arc;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, and while doing what. Cheap to clone, one word wide.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: Kind,
    message: String,
    cause: Option<Error>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Format,
    Unsupported,
    Input,
    Device,
    Memory,
    Io,
    Cancelled,
}

impl Error {
    fn new(kind: Kind, message: impl fmt::Display) -> Self {
        Self(Arc::new(Inner { kind, message: message.to_string(), cause: None }))
    }

    /// A file that is not what it claims to be.
    pub fn format(message: impl fmt::Display) -> Self {
        Self::new(Kind::Format, message)
    }

    /// Well formed, but something this version cannot run.
    pub fn unsupported(message: impl fmt::Display) -> Self {
        Self::new(Kind::Unsupported, message)
    }

    /// A value handed in by the caller that makes no sense.
    pub fn input(message: impl fmt::Display) -> Self {
        Self::new(Kind::Input, message)
    }

    /// No adapter, a lost device, a kernel the driver refused, a wait that ran out of time.
    pub fn device(message: impl fmt::Display) -> Self {
        Self::new(Kind::Device, message)
    }

    /// Not enough memory, or more than one buffer may hold.
    pub fn memory(message: impl fmt::Display) -> Self {
        Self::new(Kind::Memory, message)
    }

    /// The operating system refused a file.
    pub fn io(message: impl fmt::Display) -> Self {
        Self::new(Kind::Io, message)
    }

    /// The caller asked to stop.
    pub fn cancelled(message: impl fmt::Display) -> Self {
        Self::new(Kind::Cancelled, message)
    }

    /// Says what was being done when this happened; keeps the kind.
    #[must_use]
    pub fn context(self, message: impl fmt::Display) -> Self {
        Self(Arc::new(Inner { kind: self.0.kind, message: message.to_string(), cause: Some(self) }))
    }

    /// A file that is not what it claims to be.
    pub fn is_format(&self) -> bool {
        self.0.kind == Kind::Format
    }

    /// Well formed, but not supported here.
    pub fn is_unsupported(&self) -> bool {
        self.0.kind == Kind::Unsupported
    }

    /// A bad argument.
    pub fn is_input(&self) -> bool {
        self.0.kind == Kind::Input
    }

    /// Trouble with the GPU or its driver.
    pub fn is_device(&self) -> bool {
        self.0.kind == Kind::Device
    }

    /// Out of memory, or over a size limit.
    pub fn is_memory(&self) -> bool {
        self.0.kind == Kind::Memory
    }

    /// The operating system refused a file.
    pub fn is_io(&self) -> bool {
        self.0.kind == Kind::Io
    }

    /// The caller asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.kind == Kind::Cancelled
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        match &self.0.cause {
            Some(cause) => write!(f, ": {cause}"),
            None => Ok(()),
        }
    }
}

/// The text, which is what a `main` that returns the error shows to users; `{:#?}` names the kind as well.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() { write!(f, "{:?}({self})", self.0.kind) } else { fmt::Display::fmt(self, f) }
    }
}

// The chain is already in the text, so `source` stays empty: reporters that walk it would print twice.
impl std::error::Error for Error {}

/// `.context(..)` on any `Result` of this crate.
pub(crate) trait Context<T> {
    fn context(self, message: impl fmt::Display) -> Result<T>;
    fn with_context<D: fmt::Display>(self, message: impl FnOnce() -> D) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn context(self, message: impl fmt::Display) -> Result<T> {
        self.map_err(|e| e.context(message))
    }

    fn with_context<D: fmt::Display>(self, message: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|e| e.context(message()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_reads_outermost_first_and_keeps_the_kind() {
        let e = Error::format("header is 9 bytes").context("model.safetensors").context("loading llama");
        assert_eq!(e.to_string(), "loading llama: model.safetensors: header is 9 bytes");
        assert_eq!((format!("{e:?}"), format!("{e:#?}")), (e.to_string(), format!("Format({e})")));
        assert!(e.is_format() && !e.is_io());
        assert_eq!(std::mem::size_of::<Error>(), std::mem::size_of::<usize>());
    }
}
