//! The label values of the metrics, and what each counter stands for.
//!
//! The values are part of the interface: dashboards and alerts name them. They do not change when a
//! type or a function here is renamed.

use kvs_proto::v2::request::RequestKind;
use kvs_proto::v2::response::Status;

use crate::local::session::close_reason::CloseReason;

/// The kinds of operations, in the order of their counters.
pub(super) const OPERATIONS: [&str; 8] =
    ["get", "put", "delete", "put_many", "keys", "watch", "unwatch", "unknown"];

/// The index of an operation in [`OPERATIONS`].
pub(super) fn operation_index(kind: RequestKind) -> usize {
    match kind {
        RequestKind::Get => 0,
        RequestKind::Put => 1,
        RequestKind::Delete => 2,
        RequestKind::PutMany => 3,
        RequestKind::Keys => 4,
        RequestKind::Watch => 5,
        RequestKind::Unwatch => 6,
        RequestKind::Close | RequestKind::Unknown => 7,
    }
}

/// The results of operations, in the order of their counters.
pub(super) const RESULTS: [&str; 6] =
    ["ok", "not_found", "conflict", "too_large", "limit", "unknown"];

/// The index of a result in [`RESULTS`].
pub(super) fn result_index(status: Status) -> usize {
    match status {
        Status::Ok | Status::Welcome => 0,
        Status::NoSuchKey => 1,
        Status::Conflict => 2,
        Status::TooLarge => 3,
        Status::Limit => 4,
        Status::Unknown => 5,
    }
}

/// Whether an operation can have this result.
pub(super) fn is_possible(operation: usize, result: usize) -> bool {
    let (operation, result) = (OPERATIONS[operation], RESULTS[result]);
    match result {
        "ok" => operation != "unknown",
        "not_found" => matches!(operation, "get" | "delete" | "watch" | "unwatch"),
        "conflict" => matches!(operation, "put" | "delete"),
        "limit" => matches!(operation, "get" | "put" | "put_many" | "watch"),
        "too_large" => true,
        _ => operation == "unknown",
    }
}

/// The outcome of a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LoginOutcome {
    /// The session is established.
    Ok,
    /// The user or the process has too many connections.
    Limit,
    NoSuchGroup,
    WrongSecret,
    TooManyFailedLogins,
    TimedOut,
    AuthUnavailable,
    GroupDeleted,
    Malformed,
    /// The application disconnected before it was answered.
    Abandoned,
    /// The server is quitting.
    Closed,
}

/// The outcomes of logins, in the order of [`LoginOutcome`].
pub(super) const LOGINS: [&str; 11] = [
    "ok",
    "limit",
    "no_such_group",
    "wrong_secret",
    "too_many_guesses",
    "timed_out",
    "auth_unavailable",
    "group_deleted",
    "malformed",
    "abandoned",
    "closed",
];

const _: () = assert!(LOGINS.len() == LoginOutcome::Closed as usize + 1);

/// The reasons why sessions are closed after the login, in the order of their counters.
pub(super) const ENDS: [&str; 7] =
    ["goodbye", "gone", "malformed", "too_many_changes", "closed", "unresponsive", "no_room"];

/// The outcome of a login that a close reason ended.
pub(super) fn failed_login(reason: &CloseReason) -> LoginOutcome {
    match reason {
        CloseReason::NoSuchGroup => LoginOutcome::NoSuchGroup,
        CloseReason::WrongSecret => LoginOutcome::WrongSecret,
        CloseReason::TooManyFailedLogins => LoginOutcome::TooManyFailedLogins,
        CloseReason::LoginTimeout(_) => LoginOutcome::TimedOut,
        CloseReason::Unavailable(_) => LoginOutcome::AuthUnavailable,
        CloseReason::GroupDeleted => LoginOutcome::GroupDeleted,
        CloseReason::Malformed(_)
        | CloseReason::UnexpectedReply(_)
        | CloseReason::MalformedFrame(_)
        | CloseReason::UnexpectedBytes
        | CloseReason::NotLoggedIn => LoginOutcome::Malformed,
        CloseReason::ClosedByClient
        | CloseReason::ConnectionLost
        | CloseReason::TableFull
        | CloseReason::StorageFailed
        | CloseReason::TooManyEvents => LoginOutcome::Abandoned,
        CloseReason::ClosedByServer | CloseReason::CloseTimeout => LoginOutcome::Closed,
    }
}

/// The index of a close reason in [`ENDS`], for a session that was established.
pub(super) fn end_index(reason: &CloseReason) -> usize {
    match reason {
        CloseReason::ClosedByClient => 0,
        CloseReason::ConnectionLost
        | CloseReason::Unavailable(_)
        | CloseReason::LoginTimeout(_)
        | CloseReason::GroupDeleted => 1,
        CloseReason::Malformed(_)
        | CloseReason::UnexpectedReply(_)
        | CloseReason::MalformedFrame(_)
        | CloseReason::UnexpectedBytes
        | CloseReason::NotLoggedIn
        | CloseReason::NoSuchGroup
        | CloseReason::WrongSecret
        | CloseReason::TooManyFailedLogins => 2,
        CloseReason::TooManyEvents => 3,
        CloseReason::ClosedByServer => 4,
        CloseReason::CloseTimeout => 5,
        CloseReason::TableFull | CloseReason::StorageFailed => 6,
    }
}
