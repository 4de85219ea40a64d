//! Errors of `kvs admin`: messages, names and exit codes.

use std::fmt::{self, Display};
use std::io;
use std::path::PathBuf;

use kvs_proto::control::{AdminErrorKind, DecodeError};
use nix::unistd::{Uid, User};

use crate::admin::endpoint::DEFAULT_PATHS;
use crate::error::Error;
use crate::quoting::Unquoted;

/// Why a command of `kvs admin` failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdminError {
    /// The server refused the request.
    #[error("{}", refusal(*kind, message))]
    Refused { kind: AdminErrorKind, message: String },
    #[error(
        "no server at {} ({error}): is KVS-LocalServer running? \
         (--control-socket names another path)",
        path.display()
    )]
    NoServer { path: PathBuf, error: io::Error },
    #[error(
        "no server is running: neither {} nor {} exists \
         (--control-socket or --socket names another path)",
        DEFAULT_PATHS[0], DEFAULT_PATHS[1]
    )]
    NoDefaultServer,
    #[error(
        "only root and {owner}, who runs the server, may use {}; try sudo",
        path.display()
    )]
    Permission { path: PathBuf, owner: UserName },
    #[error(
        "{} belongs to {owner} and is not trusted: nothing was sent. If it is your server, try: \
         sudo -u '#{}' kvs admin …",
        path.display(), owner.0
    )]
    Untrusted { path: PathBuf, owner: UserName },
    #[error(
        "the connection to the server at {} failed: {error}{}",
        path.display(), unknown_outcome(*.maybe_executed)
    )]
    Connection { path: PathBuf, error: io::Error, maybe_executed: bool },
    #[error("bad reply from {}: {error}", path.display())]
    BadReply { path: PathBuf, error: DecodeError },
    #[error("{0}; nothing was created")]
    ExistingSecret(Error),
    #[error(
        "the secret file {} is not trusted, because {why}: nothing was created. \
         Choose another path, or make the file your own",
        path.display()
    )]
    UntrustedSecret { path: PathBuf, why: &'static str },
    #[error("cannot use the secret file {}: {error}; nothing was created", path.display())]
    SecretFile { path: PathBuf, error: io::Error },
    #[error(
        "the group was created, but its secret could not be written to {}: {error}. \
         kvs admin info prints it",
        path.display()
    )]
    SecretNotWritten { path: PathBuf, error: io::Error },
    #[error("cannot read standard input: {0}; nothing was changed")]
    Input(io::Error),
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
}

fn refusal(kind: AdminErrorKind, message: &str) -> String {
    // The server may run as another user, so its text must not reach the terminal unescaped.
    let message = Unquoted(message.as_bytes());
    match kind {
        AdminErrorKind::Denied => format!("{message}; try sudo"),
        _ => message.to_string(),
    }
}

fn unknown_outcome(maybe_executed: bool) -> &'static str {
    match maybe_executed {
        true => ". The server may have executed the request: check with kvs admin status",
        false => "",
    }
}

impl AdminError {
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Refused { kind, .. } => match kind {
                AdminErrorKind::NotFound => 1,
                AdminErrorKind::Invalid | AdminErrorKind::Version => 2,
                AdminErrorKind::Quitting => 3,
                AdminErrorKind::Denied => 4,
                AdminErrorKind::Exists => 5,
                AdminErrorKind::Unavailable | AdminErrorKind::Busy | AdminErrorKind::Unknown => 6,
            },
            Self::NoServer { .. } | Self::NoDefaultServer => 3,
            Self::Connection { .. } | Self::BadReply { .. } => 3,
            Self::Permission { .. } | Self::Untrusted { .. } => 4,
            Self::ExistingSecret(error) => error.exit_code(),
            Self::UntrustedSecret { .. } => 4,
            Self::SecretFile { .. } | Self::SecretNotWritten { .. } => 7,
            Self::Input(_) | Self::Output(_) => 7,
        }
    }

    /// The stable name for programs.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Refused { kind, .. } => match kind {
                AdminErrorKind::NotFound => "no_such_group",
                AdminErrorKind::Invalid => "invalid",
                AdminErrorKind::Version => "version",
                AdminErrorKind::Quitting => "quitting",
                AdminErrorKind::Denied => "denied",
                AdminErrorKind::Exists => "exists",
                AdminErrorKind::Unavailable => "unavailable",
                AdminErrorKind::Busy => "busy",
                AdminErrorKind::Unknown => "unknown",
            },
            Self::NoServer { .. } | Self::NoDefaultServer => "no_server",
            Self::Connection { .. } | Self::BadReply { .. } => "connection_lost",
            Self::Permission { .. } | Self::Untrusted { .. } => "denied",
            Self::ExistingSecret(error) => error.name(),
            Self::UntrustedSecret { .. } => "untrusted_secret",
            Self::SecretFile { .. } | Self::SecretNotWritten { .. } => "system",
            Self::Input(_) | Self::Output(_) => "system",
        }
    }
}

/// Displays a user: the name if there is one, otherwise the uid.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UserName(pub(crate) u32);

impl Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match User::from_uid(Uid::from_raw(self.0)) {
            Ok(Some(user)) => write!(f, "the user {}", user.name),
            _ => write!(f, "the user with uid {}", self.0),
        }
    }
}
