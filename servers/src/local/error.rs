//! The error of a local server that cannot start or continue.

use std::io;
use std::path::PathBuf;

use crate::local::link::connection::ConnectError;
use crate::local::metrics::http::MetricsError;
use crate::local::net::listener::ListenError;
use crate::local::net::socket_activation::ActivationError;

/// The reason why a local server cannot start or continue.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Two sockets have the same path.
    #[error("{} and {} must differ, but both are {}", options[0], options[1], path.display())]
    SamePath {
        /// The options that set it.
        options: [&'static str; 2],
        /// The path.
        path: PathBuf,
    },
    /// The address for metrics cannot be bound.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// A path cannot be served.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// An activated socket cannot be used.
    #[error(transparent)]
    Activation(#[from] ActivationError),
    /// The authentication server cannot be reached.
    #[error(transparent)]
    Auth(#[from] ConnectError),
    /// The system lacks a resource.
    #[error("{what} is not available: {source}")]
    Io {
        /// The resource.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// A thread has failed, because of a bug or a shortage that the log names.
    #[error("a thread of the server has failed: the server was shut down, and all data is lost")]
    Broken,
    /// The authentication server was lost, and `--exit-on-auth-loss` is set.
    #[error(
        "the authentication server {0} does not answer: the server has exited \
         (--exit-on-auth-loss), and all data is lost"
    )]
    AuthLost(String),
}

impl Error {
    /// Converts an error of the system in `map_err`.
    pub fn io(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}
