//! The error of the library, and the codes that the C functions return for it.
//!
//! A variant says more than its code: which path, which system error, what the server sent.

use std::io;
use std::path::PathBuf;

use kvs_proto::TextError;
use kvs_proto::v1::client::{Incoming, Outgoing, Violation};
use kvs_proto::v2::{Malformed, Version};

use crate::codes::*;

/// An error of the library.
///
/// An error for which [`closes`](Self::closes) returns true has closed the connection. All others
/// leave it unchanged, except those of [`Connection::close`](crate::Connection::close).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system reported an error when a socket was closed. The socket is closed nevertheless.
    #[error("closing a socket failed: {0}")]
    Close(#[source] io::Error),
    /// No socket could be created.
    #[error("a socket could not be created: {0}")]
    Socket(#[source] io::Error),
    /// There is no connection: it was never opened, closed by either side, lost, or inherited by
    /// `fork`.
    #[error("there is no connection")]
    NotConnected,
    /// The request (in protocol v1 the function code that begins it) could not be sent.
    #[error("sending the request failed: {0}")]
    SendCode(#[source] io::Error),
    /// The ready flag that starts an operation, or the length of a value, was not received.
    #[error("receiving the server's ready flag failed: {0}")]
    ReceiveReady(#[source] io::Error),
    /// Protocol v1: the ready flag is not 1, because the server refuses the operation.
    #[error("the server is not ready: it sent {0} instead of 1 (the user may be at its limit)")]
    NotReady(i32),
    /// The user is at its limit of pairs or bytes, and the connection was closed for that reason.
    /// Only the six C functions return this, in place of [`LimitReached`](Self::LimitReached).
    #[error("the user is at its limit of pairs or bytes, and the connection is closed")]
    LimitClosed,
    /// A key, value, group name or secret could not be sent.
    #[error("sending a key, value, group name or secret failed: {0}")]
    SendText(#[source] io::Error),
    /// The local server has no group of that name.
    #[error("there is no such group")]
    NoSuchGroup,
    /// The group has no such key. Of the methods of [`Connection`](crate::Connection) only those
    /// that watch a key return this; for the others it is a result, not an error.
    #[error("there is no such key")]
    NoSuchKey,
    /// There is no watch on the key or prefix. C functions only; for
    /// [`unwatch`](crate::Connection::unwatch) this is a result, not an error.
    #[error("the key or prefix is not watched")]
    NotWatched,
    /// The response to a request was not received.
    #[error("receiving the response failed: {0}")]
    ReceiveResponse(#[source] io::Error),
    /// The response to the group name or the secret was not received.
    #[error(
        "no response to the login: {0} (the authentication server may be unreachable, or too many \
         logins with wrong secrets were attempted)"
    )]
    ReceiveLogin(#[source] io::Error),
    /// The response to a key, group name or secret is not one of the protocol.
    #[error("the server sent {0}, which is not a response of the protocol")]
    BadResponse(i32),
    /// The group exists and has another secret.
    #[error("the secret is wrong")]
    WrongSecret,
    /// The value was not received.
    #[error("receiving the value failed: {0}")]
    ReceiveValue(#[source] io::Error),
    /// The server announced a length that no value can have.
    #[error("the server announced {0} bytes, which is not the length of a value")]
    BadLength(i32),
    /// Protocol v1: the value contains a NUL, or does not end with one.
    #[error("the server sent a malformed value")]
    BadValue,
    /// The path of the client's own socket could not be bound.
    #[error("binding a socket to {} failed: {source}", path.display())]
    Bind {
        /// The path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// No local server listens at this path.
    #[error("connecting to {} failed: {source}", path.display())]
    Connect {
        /// The path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The connection flag, the first message of the server, was not received on one of the
    /// channels.
    #[error("the server did not send its greeting: {0}")]
    ReceiveGreeting(#[source] io::Error),
    /// The connection flag is not 1: the server refused the connection.
    #[error("the server refused the connection: it sent {0} instead of 1")]
    Refused(i32),
    /// An argument is invalid for every server. Nothing was sent.
    #[error("invalid {what}: {why}")]
    Invalid {
        /// The argument or environment variable.
        what: &'static str,
        /// What is wrong with it.
        why: Invalid,
    },
    /// Calls of other threads used the connection until the timeout. Nothing was sent.
    #[error("other threads kept the connection busy until the timeout")]
    Busy,
    /// The callback will not run again, but did not return within the timeout.
    #[error("a callback did not return within the timeout; it will not run again")]
    CallbackRuns,
    /// The system refused a resource: a thread, memory, random bytes.
    #[error("the system refused a resource: {0}")]
    System(#[source] io::Error),
    /// The process is connected already. Only the six C functions return this: they have one
    /// connection per process.
    #[error("already connected")]
    AlreadyConnected,
    /// Protocol v2: the server sent a malformed or unexpected frame.
    #[error("the server violated the protocol: {0}")]
    BadFrame(#[from] Malformed),
    /// A key, a value or a message is longer than the server accepts, or
    /// [`put_many`](crate::Connection::put_many) has too many pairs for the number of clients that
    /// must be notified. Nothing was changed.
    #[error(
        "a key, a value or a message is longer than the server accepts, or there are too many \
         pairs for a group with so many clients; nothing was changed"
    )]
    TooLarge,
    /// The session speaks protocol v1, or the server does not know the request. Nothing was
    /// changed.
    #[error(
        "not supported by this session: it uses protocol v1 (because of the server, KVS_PROTOCOL \
         or a group name of more than 95 bytes), or the server is too old"
    )]
    Unsupported,
    /// The key has this version rather than the expected one; 0 stands for "no such key". C
    /// functions only; see [`Swap`](crate::Swap).
    #[error("the key has another version: {0}")]
    Conflict(Version),
    /// The user is at its limit of pairs or bytes; the server's log says which. Nothing was
    /// changed.
    #[error("the user is at its limit of pairs or bytes")]
    LimitReached,
}

/// Why an argument is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Invalid {
    /// A NULL pointer. C functions only.
    #[error("it is NULL")]
    Null,
    /// Empty.
    #[error("it is empty")]
    Empty,
    /// Too long for protocol v1, or with a NUL.
    #[error(transparent)]
    Text(#[from] TextError),
    /// Too long.
    #[error("{len} bytes are too long: at most {max} are allowed")]
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// Too many pairs.
    #[error("there are too many: at most {max} are allowed")]
    TooMany {
        /// The limit.
        max: usize,
    },
    /// Not the name of a protocol.
    #[error("it is neither \"original\" nor \"best\"")]
    Protocol,
    /// Not a number of milliseconds, or one out of range.
    #[error("it is not a number of milliseconds from 1 to {}", i32::MAX)]
    Timeout,
}

impl Error {
    /// The code that the C functions return, -1 to -19: see the table in `include/kvs.h`.
    pub fn code(&self) -> i32 {
        match self {
            Self::Close(_) => KVS_ERROR_CLOSE,
            Self::Socket(_) | Self::NotConnected => KVS_ERROR_NOT_CONNECTED,
            Self::SendCode(_) => KVS_ERROR_SEND_REQUEST,
            Self::ReceiveReady(_) => KVS_ERROR_RECEIVE_READY,
            Self::NotReady(_) | Self::LimitClosed => KVS_ERROR_NOT_READY,
            Self::SendText(_) => KVS_ERROR_SEND_STRING,
            Self::NoSuchGroup | Self::NoSuchKey | Self::NotWatched => KVS_ERROR_NOT_FOUND,
            Self::ReceiveResponse(_)
            | Self::ReceiveLogin(_)
            | Self::BadResponse(_)
            | Self::BadFrame(_) => KVS_ERROR_RECEIVE_ANSWER,
            Self::WrongSecret => KVS_ERROR_WRONG_SECRET,
            Self::ReceiveValue(_) | Self::BadLength(_) | Self::BadValue => KVS_ERROR_RECEIVE_VALUE,
            Self::Bind { .. } => KVS_ERROR_BIND,
            Self::Connect { .. } => KVS_ERROR_CONNECT,
            Self::ReceiveGreeting(_) => KVS_ERROR_NO_GREETING,
            Self::Refused(_) => KVS_ERROR_REFUSED,
            Self::Invalid { .. }
            | Self::TooLarge
            | Self::Busy
            | Self::CallbackRuns
            | Self::System(_) => KVS_ERROR_INVALID,
            Self::AlreadyConnected => KVS_ERROR_ALREADY_CONNECTED,
            Self::Unsupported => KVS_ERROR_UNSUPPORTED,
            Self::Conflict(_) => KVS_ERROR_CONFLICT,
            Self::LimitReached => KVS_ERROR_LIMIT,
        }
    }

    /// Whether this error has closed the connection, because later messages could not be trusted.
    pub fn closes(&self) -> bool {
        matches!(
            self,
            Self::SendCode(_)
                | Self::ReceiveReady(_)
                | Self::NotReady(_)
                | Self::LimitClosed
                | Self::SendText(_)
                | Self::ReceiveResponse(_)
                | Self::BadResponse(_)
                | Self::BadFrame(_)
                | Self::ReceiveValue(_)
                | Self::BadLength(_)
                | Self::BadValue
        )
    }

    /// The same error for a request of a value, with the codes of protocol v1: there the length of
    /// the value takes the place of the response.
    pub(crate) fn for_value_request(self) -> Self {
        match self {
            Self::ReceiveResponse(error) => Self::ReceiveReady(error),
            Self::BadFrame(_) => Self::BadValue,
            other => other,
        }
    }

    /// A failed send of protocol v1.
    pub(crate) fn sending(what: Outgoing, error: io::Error) -> Self {
        match what {
            Outgoing::FunctionCode => Self::SendCode(error),
            Outgoing::Text => Self::SendText(error),
        }
    }

    /// A failed receive of protocol v1.
    pub(crate) fn receiving(what: Incoming, error: io::Error) -> Self {
        match what {
            Incoming::ConnectionFlag => Self::ReceiveGreeting(error),
            Incoming::Ready | Incoming::Length => Self::ReceiveReady(error),
            Incoming::Response => Self::ReceiveResponse(error),
            Incoming::Value => Self::ReceiveValue(error),
        }
    }
}

impl From<Violation> for Error {
    fn from(violation: Violation) -> Self {
        match violation {
            Violation::Refused(flag) => Self::Refused(flag),
            Violation::NotReady(flag) => Self::NotReady(flag),
            Violation::BadResponse(response) => Self::BadResponse(response),
            Violation::BadLength(length) => Self::BadLength(length),
            Violation::BadValue => Self::BadValue,
        }
    }
}
