//! The errors of this program, as one enum.
//!
//! Two of them are no failures: [`Error::Unavailable`] removes a system from the run, with a line
//! that says why, and [`Error::Interrupted`] ends the run on the user's request.

use std::io;

/// Why a run, or the measurement of a system, ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// The operation.
        what: String,
        /// The error of the system call.
        source: io::Error,
    },
    /// The user has pressed Ctrl-C or sent SIGTERM.
    #[error("interrupted")]
    Interrupted,
    /// A system is not installed, not built in, or cannot perform a scenario: it is skipped.
    #[error("{0}")]
    Unavailable(String),
    /// Any other error.
    #[error("{0}")]
    Failed(String),
}

/// A result of this program.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Adds the operation to the error of a system call.
pub(crate) trait IoContext<T> {
    /// Names the operation.
    fn io_context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> IoContext<T> for std::result::Result<T, E> {
    fn io_context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::Io { what: what(), source: error.into() })
    }
}

/// An error with this message.
pub(crate) fn failed<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::Failed(message.into()))
}
