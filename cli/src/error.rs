//! The errors of `kvs`: a message for people, a stable name for programs, an exit code for scripts.
//!
//! A message says what happened, to what, and what to do. The names never change, as programs rely
//! on them; `help_text` lists them. `library_error` classifies the errors of the library.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use kvs::Version;

use crate::exit_code::{ErrorClass, INTERRUPTED};
use crate::json::JsonObject;
use crate::library_error::{classify, server_at};
use crate::quoting::Quoted;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("there is no key {} in the group {}", Quoted(key), Quoted(group))]
    NoSuchKey { key: Vec<u8>, group: Vec<u8> },
    /// Protocol v1 registers callbacks for existing keys only.
    #[error(
        "there is no key {} in the group {}, and protocol v1 can only watch existing keys: \
         put it first",
        Quoted(key),
        Quoted(group)
    )]
    WatchMissingKey { key: Vec<u8>, group: Vec<u8> },
    #[error("the key {} {}: nothing was changed", Quoted(key), describe_version(*version))]
    Conflict { key: Vec<u8>, version: Version },
    #[error("no group given: use --group GROUP or KVS_GROUP, or at the prompt: connect GROUP")]
    NoGroup,
    #[error(
        "no secret for the group {}: name a file with --secret-file FILE or KVS_SECRET_FILE, \
         or set KVS_SECRET; on a terminal kvs asks for the secret",
        Quoted(group)
    )]
    NoSecret { group: Vec<u8> },
    /// Ctrl-C while kvs asked for the secret.
    #[error("interrupted")]
    Interrupted,
    #[error("cannot read the secret from the terminal: {0}")]
    SecretPrompt(#[source] io::Error),
    #[error(
        "cannot read the secret file {}: {source}",
        Quoted(path.as_os_str().as_encoded_bytes())
    )]
    SecretFile { path: PathBuf, source: io::Error },
    #[error(
        "the first line of the secret file {} is empty",
        Quoted(path.as_os_str().as_encoded_bytes())
    )]
    EmptySecret { path: PathBuf },
    /// An error that the library, the server or `kvs admin` reports, with its name and exit code.
    #[error("{message}")]
    Classified { name: &'static str, message: String, exit_code: u8 },
    #[error(
        "the connection to {} was closed: the server has quit or was killed, or the group {} \
         was deleted",
        server_at(socket),
        Quoted(group)
    )]
    Disconnected { socket: PathBuf, group: Vec<u8> },
    /// A wrong command line.
    #[error("{0}")]
    Usage(String),
    #[error("cannot read standard input: {0}")]
    Input(#[source] io::Error),
    #[error("cannot write to standard output: {0}")]
    Output(#[source] io::Error),
    /// The reader of standard output has closed it: it has read enough.
    #[error("standard output was closed by its reader")]
    OutputClosed,
    #[error("the prompt cannot use this terminal: {0}")]
    Terminal(String),
    #[error("cannot start the watch: {0}")]
    StartWatch(String),
    /// Some of several keys failed. Each failure has been reported already.
    #[error("some keys failed")]
    AlreadyReported { exit_code: u8 },
}

impl Error {
    /// An error of the library on a connection to `socket` and this group.
    pub(crate) fn from_library(error: kvs::Error, socket: &Path, group: &[u8]) -> Self {
        let (class, name, message) = classify(&error, socket, group);
        Self::Classified { name, message, exit_code: class.exit_code() }
    }

    /// A failed write to standard output.
    pub(crate) fn from_output(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Output(error),
        }
    }

    /// Whether no message is printed for it.
    pub(crate) fn is_silent(&self) -> bool {
        matches!(self, Self::OutputClosed | Self::AlreadyReported { .. })
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::OutputClosed => 0,
            Self::AlreadyReported { exit_code } | Self::Classified { exit_code, .. } => *exit_code,
            Self::NoSuchKey { .. } | Self::WatchMissingKey { .. } => {
                ErrorClass::NoSuchKey.exit_code()
            }
            Self::Conflict { .. } => ErrorClass::Conflict.exit_code(),
            Self::NoGroup | Self::NoSecret { .. } | Self::EmptySecret { .. } | Self::Usage(_) => {
                ErrorClass::Usage.exit_code()
            }
            Self::Disconnected { .. } => ErrorClass::NoConnection.exit_code(),
            Self::Interrupted => INTERRUPTED,
            Self::SecretPrompt(_)
            | Self::SecretFile { .. }
            | Self::Input(_)
            | Self::Output(_)
            | Self::Terminal(_)
            | Self::StartWatch(_) => ErrorClass::System.exit_code(),
        }
    }

    /// The stable name for programs.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::NoSuchKey { .. } | Self::WatchMissingKey { .. } => "no_such_key",
            Self::Conflict { .. } => "conflict",
            Self::NoGroup => "no_group",
            Self::NoSecret { .. } | Self::EmptySecret { .. } => "no_secret",
            Self::Classified { name, .. } => name,
            Self::Disconnected { .. } => "connection_lost",
            Self::Usage(_) => "usage",
            Self::Interrupted => "interrupted",
            Self::SecretPrompt(_)
            | Self::SecretFile { .. }
            | Self::Input(_)
            | Self::Output(_)
            | Self::Terminal(_)
            | Self::StartWatch(_)
            | Self::OutputClosed
            | Self::AlreadyReported { .. } => "system",
        }
    }

    /// The JSON object that `--json` prints.
    pub(crate) fn to_json(&self) -> JsonObject {
        let mut object = JsonObject::new();
        object.text("error", self.name());
        object.text("message", &self.to_string());
        match self {
            Self::NoSuchKey { key, .. } | Self::WatchMissingKey { key, .. } => {
                object.bytes("key", key);
            }
            Self::Conflict { key, version } => {
                object.bytes("key", key);
                object.number("version", *version);
            }
            _ => {}
        }
        object.number("exit_code", self.exit_code().into());
        object
    }
}

fn describe_version(version: Version) -> String {
    match version {
        0 => "does not exist".into(),
        version => format!("has version {version}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_says_what_happened_to_what_and_what_to_do() {
        let path = PathBuf::from("/run/s");
        let error = kvs::Error::Connect { path, source: ErrorKind::NotFound.into() };
        let error = Error::from_library(error, Path::new("/run/s"), b"weather");
        assert_eq!(
            error.to_string(),
            "no server at /run/s: is KVS-LocalServer running? \
             (KVS_SOCKET or --socket names another path)"
        );
        let missing = Error::NoSuchKey { key: b"temperature".to_vec(), group: b"weather".to_vec() };
        assert_eq!(missing.to_string(), "there is no key \"temperature\" in the group \"weather\"");
        let conflict = |version| Error::Conflict { key: b"k".to_vec(), version }.to_string();
        assert_eq!(conflict(7), "the key \"k\" has version 7: nothing was changed");
        assert_eq!(conflict(0), "the key \"k\" does not exist: nothing was changed");
    }

    #[test]
    fn error_is_an_object_for_programs() {
        let error = Error::Conflict { key: b"\xff".to_vec(), version: 7 };
        assert_eq!(
            error.to_json().to_string(),
            "{\"error\":\"conflict\",\
             \"message\":\"the key \\\"\\\\xff\\\" has version 7: nothing was changed\",\
             \"key_base64\":\"/w==\",\"version\":7,\"exit_code\":5}"
        );
    }
}
