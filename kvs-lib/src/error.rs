//! What can go wrong, and the integer that the C functions return for it.
//!
//! The integers to -16 are those of the original system, those below are ours; none is ever reused. The variants say more than the
//! integers: which path, which system error, what the server sent instead.

use std::io;
use std::path::PathBuf;

use kvs_proto::TextError;
use kvs_proto::v1::client::{Incoming, Outgoing, Violation};
use kvs_proto::v2::{Malformed, Version};

use crate::codes::*;

/// An error of the library.
///
/// After an error for which [`closes`](Self::closes) is true the connection is closed. All others leave it
/// as it was, but for those of [`Connection::close`](crate::Connection::close).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A socket was closed with an error. It is closed all the same.
    #[error("closing a socket failed: {0}")]
    Close(#[source] io::Error),
    /// No socket could be created.
    #[error("a socket could not be created: {0}")]
    Socket(#[source] io::Error),
    /// There is no connection: never opened, closed by either side, broken, or inherited by `fork`.
    #[error("there is no connection")]
    NotConnected,
    /// The function code could not be sent.
    #[error("sending the function code failed: {0}")]
    SendCode(#[source] io::Error),
    /// The flag that lets an operation go on did not come, or not the length of a value.
    #[error("receiving the ready flag failed: {0}")]
    ReceiveReady(#[source] io::Error),
    /// The ready flag is not 1.
    #[error("the server is not ready: it sent {0} instead of 1 (the user may be at its limit)")]
    NotReady(i32),
    /// The user is at its limit of pairs or bytes, and the connection was closed for that (the six C functions only: in
    /// place of [`LimitReached`](Self::LimitReached)).
    #[error("the user is at its limit of pairs or bytes, and the connection is closed")]
    LimitCloses,
    /// A key, value, group name or secret could not be sent.
    #[error("sending a key, value, group name or secret failed: {0}")]
    SendText(#[source] io::Error),
    /// The local server has no group of that name.
    #[error("there is no such group")]
    NoSuchGroup,
    /// The group has no such key. ([`get`](crate::Connection::get) and
    /// [`delete`](crate::Connection::delete) tell this without an error.)
    #[error("there is no such key")]
    NoSuchKey,
    /// The key or the prefix is not watched (C functions only: [`unwatch`](crate::Connection::unwatch) tells this without an
    /// error).
    #[error("it is not watched")]
    NotWatched,
    /// The answer to a key did not come.
    #[error("receiving the answer failed: {0}")]
    ReceiveAnswer(#[source] io::Error),
    /// The answer to the group name or the secret did not come.
    #[error(
        "no answer to the login: {0} (is the authentication server away, or were there too many wrong secrets just before?)"
    )]
    ReceiveLogin(#[source] io::Error),
    /// The answer to a key, group name or secret is none that exists.
    #[error("the server sent {0} as its answer")]
    BadResponse(i32),
    /// The group exists and has another secret.
    #[error("the secret is wrong")]
    WrongSecret,
    /// The value did not come.
    #[error("receiving the value failed: {0}")]
    ReceiveValue(#[source] io::Error),
    /// The server announced a length that no value has.
    #[error("the server announced a value of {0} bytes")]
    BadLength(i32),
    /// The value has a NUL within, or none at its end.
    #[error("the server sent a malformed value")]
    BadValue,
    /// The application's own socket path could not be bound.
    #[error("binding a socket to {} failed: {source}", path.display())]
    Bind {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No local server listens at this path.
    #[error("connecting to {} failed: {source}", path.display())]
    Connect {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The first flag did not come, on either channel.
    #[error("the server did not greet: {0}")]
    ReceiveGreeting(#[source] io::Error),
    /// The first flag is not 1.
    #[error("the server refused the connection: it sent {0} instead of 1")]
    Refused(i32),
    /// An argument that no server would take. Nothing was sent.
    #[error("invalid {what}: {why}")]
    Invalid {
        /// Which argument, or which environment variable.
        what: &'static str,
        /// What is wrong with it.
        why: Invalid,
    },
    /// Calls of other threads on the same connection took all of the time. Nothing was sent.
    #[error("other threads kept the connection busy until the time-out")]
    Busy,
    /// The callback is not called again, but a call of it has not come to its end.
    #[error("a callback has not come to its end within the time-out")]
    CallbackRuns,
    /// The machine did not let the library do its work: no thread, no memory.
    #[error("the system refused a resource: {0}")]
    System(#[source] io::Error),
    /// The process is connected already (C functions only: they have one connection per process).
    #[error("already connected")]
    AlreadyConnected,
    /// In a framed session the server sent what cannot be.
    #[error("the server broke the protocol: {0}")]
    BadFrame(#[from] Malformed),
    /// A key, a value or a message is longer than the server takes. Nothing was changed.
    #[error(
        "a key, a value or a message is longer than the server takes, or these are too many pairs at once for a group with so many applications"
    )]
    TooLarge,
    /// The session is one of the original protocol, or the server an older one: it cannot do that. Nothing was sent, or
    /// nothing was changed.
    #[error(
        "this session is an original one, because of the server, of KVS_PROTOCOL or of a group name over 95 bytes, or the server is too old for this"
    )]
    Unsupported,
    /// The key has another version than the expected one: this, or 0 for "no such key" (C functions only; see
    /// [`Swap`](crate::Swap)).
    #[error("the key has another version: {0}")]
    Conflict(Version),
    /// The user is at its limit of pairs or bytes; the server's log says which. Nothing was changed.
    #[error("the user is at its limit of pairs or bytes")]
    LimitReached,
}

/// What is wrong with an argument.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Invalid {
    /// A NULL pointer (C functions only).
    #[error("it is NULL")]
    Null,
    /// Nothing where something must be.
    #[error("it is empty")]
    Empty,
    /// Too long, or with a NUL in it, for the original protocol.
    #[error(transparent)]
    Text(#[from] TextError),
    /// Too long.
    #[error("{len} bytes are too long: at most {most} are allowed")]
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// The longest.
        most: usize,
    },
    /// Too many.
    #[error("there are too many: at most {most} are allowed")]
    TooMany {
        /// The most.
        most: usize,
    },
    /// Not the name of a protocol.
    #[error("it is neither \"original\" nor \"best\"")]
    Protocol,
    /// Not a number of milliseconds, or one out of range.
    #[error("it is no number of milliseconds from 1 to {}", i32::MAX)]
    Timeout,
}

impl Error {
    /// The integer that the C functions return: -1 to -19, see the table in `include/kvs.h`.
    pub fn code(&self) -> i32 {
        match self {
            Self::Close(_) => KVS_ERROR_CLOSE,
            Self::Socket(_) | Self::NotConnected => KVS_ERROR_NOT_CONNECTED,
            Self::SendCode(_) => KVS_ERROR_SEND_REQUEST,
            Self::ReceiveReady(_) => KVS_ERROR_RECEIVE_READY,
            Self::NotReady(_) | Self::LimitCloses => KVS_ERROR_NOT_READY,
            Self::SendText(_) => KVS_ERROR_SEND_STRING,
            Self::NoSuchGroup | Self::NoSuchKey | Self::NotWatched => KVS_ERROR_NOT_FOUND,
            Self::ReceiveAnswer(_)
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

    /// Whether the connection is closed because of this error: the stream cannot be trusted any more.
    pub fn closes(&self) -> bool {
        matches!(
            self,
            Self::SendCode(_)
                | Self::ReceiveReady(_)
                | Self::NotReady(_)
                | Self::LimitCloses
                | Self::SendText(_)
                | Self::ReceiveAnswer(_)
                | Self::BadResponse(_)
                | Self::BadFrame(_)
                | Self::ReceiveValue(_)
                | Self::BadLength(_)
                | Self::BadValue
        )
    }

    /// The same error when it was a value that was asked for: as in an original session, where its length comes in
    /// place of an answer.
    pub(crate) fn of_a_value(self) -> Self {
        match self {
            Self::ReceiveAnswer(error) => Self::ReceiveReady(error),
            Self::BadFrame(_) => Self::BadValue,
            other => other,
        }
    }

    /// A failed send.
    pub(crate) fn sending(what: Outgoing, error: io::Error) -> Self {
        match what {
            Outgoing::FunctionCode => Self::SendCode(error),
            Outgoing::Text => Self::SendText(error),
        }
    }

    /// A failed receive.
    pub(crate) fn receiving(what: Incoming, error: io::Error) -> Self {
        match what {
            Incoming::ConnectionFlag => Self::ReceiveGreeting(error),
            Incoming::Ready | Incoming::Length => Self::ReceiveReady(error),
            Incoming::Response => Self::ReceiveAnswer(error),
            Incoming::Value => Self::ReceiveValue(error),
        }
    }
}

impl From<Violation> for Error {
    fn from(violation: Violation) -> Self {
        match violation {
            Violation::Refused(flag) => Self::Refused(flag),
            Violation::NotReady(flag) => Self::NotReady(flag),
            Violation::BadResponse(answer) => Self::BadResponse(answer),
            Violation::BadLength(length) => Self::BadLength(length),
            Violation::BadValue => Self::BadValue,
        }
    }
}
