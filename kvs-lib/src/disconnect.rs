//! Why a connection ended, when the program did not close it itself.

use std::ffi::c_int;
use std::io::{self, ErrorKind};

use crate::codes::*;
use crate::error::Error;

/// Why a connection ended although the program did not close it: the argument of the callback set
/// with [`Connection::on_disconnect`](crate::Connection::on_disconnect).
///
/// When several reasons apply, the first one that the library noticed is reported, except that a
/// close notice of the server always wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DisconnectReason {
    /// The server closed the connection in an orderly way: the group was deleted, or the server is
    /// shutting down.
    ClosedByServer,
    /// The connection broke without a notice: the server was killed, or it dropped this client, for
    /// example because the client did not read its change events.
    ConnectionLost,
    /// A call got no response within the [timeout](crate::Builder::timeout), which closes the
    /// connection.
    Timeout,
    /// Protocol v1 only: the server refused an operation, for example because the user is at its
    /// limit. That closes the connection.
    Refused,
    /// The server sent something that the protocol does not allow.
    ProtocolViolation,
    /// The library could not continue: the system refused a thread to replace a callback thread
    /// that a C callback had ended, or the library has a bug.
    Internal,
}

impl DisconnectReason {
    /// The code that the callback of the C function `kvs_on_disconnect` receives. It never changes
    /// for a variant:
    ///
    /// - [`ClosedByServer`](Self::ClosedByServer): `KVS_ERROR_NOT_CONNECTED` (-2)
    /// - [`ConnectionLost`](Self::ConnectionLost), [`Timeout`](Self::Timeout) and
    ///   [`ProtocolViolation`](Self::ProtocolViolation): `KVS_ERROR_RECEIVE_ANSWER` (-8)
    /// - [`Refused`](Self::Refused): `KVS_ERROR_NOT_READY` (-5)
    /// - [`Internal`](Self::Internal): `KVS_ERROR_INVALID` (-15)
    pub fn code(self) -> c_int {
        match self {
            Self::ClosedByServer => KVS_ERROR_NOT_CONNECTED,
            Self::ConnectionLost | Self::Timeout | Self::ProtocolViolation => {
                KVS_ERROR_RECEIVE_ANSWER
            }
            Self::Refused => KVS_ERROR_NOT_READY,
            Self::Internal => KVS_ERROR_INVALID,
        }
    }

    /// The reason for a connection that a call closed because it failed with `error`.
    pub(crate) fn from_call_error(error: &Error) -> Self {
        match error {
            Error::NotReady(_) | Error::LimitClosed => Self::Refused,
            Error::BadResponse(_) | Error::BadFrame(_) | Error::BadLength(_) | Error::BadValue => {
                Self::ProtocolViolation
            }
            Error::SendCode(error)
            | Error::SendText(error)
            | Error::ReceiveReady(error)
            | Error::ReceiveResponse(error)
            | Error::ReceiveValue(error) => Self::from_io_error(error),
            _ => Self::ConnectionLost,
        }
    }

    /// The reason for a connection whose callback channel failed with `error`.
    pub(crate) fn from_io_error(error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::TimedOut => Self::Timeout,
            // The decoders report malformed input with these kinds.
            ErrorKind::InvalidData | ErrorKind::Other => Self::ProtocolViolation,
            _ => Self::ConnectionLost,
        }
    }
}

impl std::fmt::Display for DisconnectReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::ClosedByServer => "the server closed the connection",
            Self::ConnectionLost => "the connection to the server was lost",
            Self::Timeout => "the server did not respond within the timeout",
            Self::Refused => "the server refused an operation and closed the connection",
            Self::ProtocolViolation => "the server violated the protocol",
            Self::Internal => "the client library could not continue",
        })
    }
}
