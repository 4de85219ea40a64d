//! What can go wrong, as one enum.
//!
//! A message says what happened, to whom, and what to do about it where that is not plain. Two of them are no
//! failures: [`Error::Unavailable`] takes a subject out of the run, with a line that says why, and
//! [`Error::Interrupted`] ends it on the user's request.

use std::io;

/// Why a run, or a subject, came to an end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A system call.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// The user has pressed Ctrl-C, or sent SIGTERM.
    #[error("interrupted")]
    Interrupted,
    /// A subject is not installed, not built in, or cannot do what a scenario asks: it is left out.
    #[error("{0}")]
    Unavailable(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// A result of this program.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Says of a system call what it was for.
pub(crate) trait Doing<T> {
    /// Names what was being done.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::Io { what: what(), source: error.into() })
    }
}

/// A failure with this message.
pub(crate) fn failed<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::Failed(message.into()))
}
