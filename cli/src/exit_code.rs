//! Exit codes. `help_text` documents them, and they never change, as scripts rely on them.

/// The exit code of a wrong command line, as clap has it.
pub(crate) const USAGE: u8 = 2;

/// The exit code that a shell reports for a program killed by SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;

/// Errors that share an exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorClass {
    NoSuchKey,
    Usage,
    NoConnection,
    Refused,
    Conflict,
    Limit,
    System,
}

impl ErrorClass {
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::NoSuchKey => 1,
            Self::Usage => USAGE,
            Self::NoConnection => 3,
            Self::Refused => 4,
            Self::Conflict => 5,
            Self::Limit => 6,
            Self::System => 7,
        }
    }
}
