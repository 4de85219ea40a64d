//! Errors in options.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Why options cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An error of the command line or the environment, or a request for help.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file has errors.
    #[error("{}", LineErrors(path, errors))]
    InvalidFile {
        /// The file.
        path: PathBuf,
        /// All its errors.
        errors: Vec<LineError>,
    },
}

impl Error {
    /// Prints the error, or the help that was asked for. Returns the exit code: 0 for help,
    /// otherwise 2.
    pub fn report(&self, program: &str) -> ExitCode {
        match self {
            Self::Usage(error) => {
                // There is no way to report that the output is closed.
                let _ = error.print();
                u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
            }
            error => {
                eprintln!("{program}: {error}");
                ExitCode::from(2)
            }
        }
    }
}

/// An error in a line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineError {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong, and what is expected.
    pub message: String,
}

/// Displays the errors of a file, one per line.
struct LineErrors<'a>(&'a Path, &'a [LineError]);

impl fmt::Display for LineErrors<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, LineError { line, message }) in self.1.iter().enumerate() {
            let separator = if n > 0 { "\n" } else { "" };
            write!(f, "{separator}{}:{line}: {message}", self.0.display())?;
        }
        Ok(())
    }
}
