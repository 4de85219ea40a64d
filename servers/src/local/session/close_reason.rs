//! Why a session is closed.

use std::time::Duration;

use kvs_proto::v1::server::{ProtocolError, UnexpectedReply};
use kvs_proto::v2::Malformed;

use crate::directory::Unavailable;

/// How long an application may take to close its session after the server has asked it to.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a session is closed. The text completes a log line: "application disconnected: …".
#[derive(Debug, thiserror::Error)]
pub(crate) enum CloseReason {
    /// The application has closed its session.
    #[error("closed by the application")]
    ClosedByClient,
    /// The main connection ended without a request to close.
    #[error("the connection was lost")]
    ConnectionLost,
    /// There is no such group; the application was informed.
    #[error("login refused: no such group")]
    NoSuchGroup,
    /// The secret is wrong; the application was informed.
    #[error("login refused: wrong secret")]
    WrongSecret,
    /// A request came before the login was complete.
    #[error("login refused: a request came before the login was complete")]
    NotLoggedIn,
    /// The secret of the group could not be looked up.
    #[error("login failed: {0}")]
    Unavailable(Unavailable),
    /// The group was deleted during the login.
    #[error("login failed: the group was deleted meanwhile")]
    GroupDeleted,
    /// The application violated protocol v1 on the main channel.
    #[error("protocol error: {0}")]
    Malformed(#[from] ProtocolError),
    /// The application violated protocol v1 on the callback channel.
    #[error("protocol error: {0}")]
    UnexpectedReply(#[from] UnexpectedReply),
    /// The application violated protocol v2.
    #[error("protocol error: {0}")]
    MalformedFrame(#[from] Malformed),
    /// The user's failed logins exceed the rate limit. The application was not informed whether
    /// this secret is right.
    #[error("login refused: too many failed logins of this user to this group")]
    TooManyFailedLogins,
    /// The application sent bytes on the callback channel in protocol v2.
    #[error("protocol error: unexpected bytes on the callback channel")]
    UnexpectedBytes,
    /// Protocol v1: the group refused a value that the server had agreed to receive, or a delete.
    #[error("its group's table is full")]
    TableFull,
    /// The store could not commit a write, or the group was deleted first. Neither protocol has a
    /// response for that.
    #[error("a change was not committed: the store failed, or the group was deleted")]
    StorageFailed,
    /// The login exceeded its timeout.
    #[error("the login was not finished within {} s (--login-timeout)", .0.as_secs())]
    LoginTimeout(Duration),
    /// The application's pending events exceed the user's quota.
    #[error("pending events exceed the user's limit (--max-bytes-per-user)")]
    TooManyEvents,
    /// The application closed its session after the server had asked it to.
    #[error("closed at the request of the server: its group was deleted, or the server quits")]
    ClosedByServer,
    /// The application did not close its session after the server had asked it to.
    #[error("it did not close within {} s of the server's request", CLOSE_TIMEOUT.as_secs())]
    CloseTimeout,
}

impl CloseReason {
    /// What the application is called in the log line.
    pub(crate) fn subject(&self) -> &'static str {
        match self {
            Self::TooManyEvents => "subscriber",
            _ => "application",
        }
    }

    /// Whether the log line is a warning. Reasons of normal operation are logged at level debug.
    pub(crate) fn is_notable(&self) -> bool {
        matches!(
            self,
            Self::Unavailable(_)
                | Self::Malformed(_)
                | Self::UnexpectedReply(_)
                | Self::MalformedFrame(_)
                | Self::UnexpectedBytes
                | Self::TableFull
                | Self::StorageFailed
                | Self::LoginTimeout(_)
                | Self::TooManyEvents
                | Self::CloseTimeout
        )
    }
}
