//! Errors of the library as `kvs` reports them: their class, their name and a message.

use std::io::{self, ErrorKind};
use std::path::Path;

use kvs::{Invalid, TextError};

use crate::exit_code::ErrorClass;
use crate::quoting::{Quoted, Unquoted};

/// How a message names a server.
pub(crate) fn server_at(socket: &Path) -> String {
    format!("the server at {}", Unquoted(socket.as_os_str().as_encoded_bytes()))
}

/// The class of an error, its name for programs, and its message: what happened, to what, and what
/// to do.
pub(crate) fn classify(
    error: &kvs::Error,
    socket: &Path,
    group: &[u8],
) -> (ErrorClass, &'static str, String) {
    use kvs::Error as E;
    let server = server_at(socket);
    match error {
        E::Connect { path, source } => classify_connect(path, source),
        E::ReceiveGreeting(source) => (
            ErrorClass::NoConnection,
            if is_timeout(source) { "timed_out" } else { "no_server" },
            format!(
                "{server} sent no greeting ({source}): it may be stopped, or at its limit of \
                 open files"
            ),
        ),
        E::ReceiveLogin(source) => (
            ErrorClass::NoConnection,
            "no_login",
            format!(
                "{server} did not answer the login ({source}): the authentication server may be \
                 down, or logins are throttled after wrong secrets"
            ),
        ),
        E::Refused(_) => (
            ErrorClass::Refused,
            "refused",
            format!(
                "{server} refused the connection: your user or process may have reached its \
                 limit of connections; the server's log says more"
            ),
        ),
        E::NoSuchGroup => (
            ErrorClass::Refused,
            "no_such_group",
            format!(
                "{server} has no group {}: its administrator creates one with kvs admin create",
                Quoted(group)
            ),
        ),
        E::WrongSecret => (
            ErrorClass::Refused,
            "wrong_secret",
            format!(
                "{server} rejected the secret of the group {}: its administrator can print the \
                 right one with kvs admin info",
                Quoted(group)
            ),
        ),
        E::NoSuchKey => (ErrorClass::NoSuchKey, "no_such_key", error.to_string()),
        E::Conflict(_) => (ErrorClass::Conflict, "conflict", error.to_string()),
        E::Invalid { what, why } => classify_invalid(what, why),
        E::TooLarge => {
            (ErrorClass::Limit, "too_large", format!("{server} rejected the request: {error}"))
        }
        E::LimitReached | E::LimitClosed => (
            ErrorClass::Limit,
            "limit",
            format!(
                "{server} stored nothing: your user has reached its limit of pairs or bytes \
                 (the server's log says which)"
            ),
        ),
        E::NotReady(_) => (
            ErrorClass::Limit,
            "limit",
            format!(
                "{server} closed the connection: your user may have reached its limit of pairs \
                 or bytes (the server's log says which)"
            ),
        ),
        E::Unsupported => (
            ErrorClass::Limit,
            "unsupported",
            "protocol v1 does not support this; the connection uses it because the server has no \
             other, KVS_PROTOCOL says so, or the group name is longer than 95 bytes"
                .into(),
        ),
        E::NotConnected => (
            ErrorClass::NoConnection,
            "connection_lost",
            format!("the connection to {server} was lost"),
        ),
        E::SendCode(source)
        | E::ReceiveReady(source)
        | E::SendText(source)
        | E::ReceiveResponse(source)
        | E::ReceiveValue(source)
            if is_timeout(source) =>
        {
            let message = format!(
                "{server} did not answer in time, and the connection is closed \
                 (--timeout or KVS_TIMEOUT_MS sets the timeout)"
            );
            (ErrorClass::NoConnection, "timed_out", message)
        }
        closing if closing.closes() => (
            ErrorClass::NoConnection,
            "connection_lost",
            format!("the connection to {server} was lost: {closing}"),
        ),
        // Sockets, threads, memory; errors that only C programs meet; and errors that a later
        // version of the library adds.
        other => (ErrorClass::System, "system", other.to_string()),
    }
}

fn classify_connect(path: &Path, source: &io::Error) -> (ErrorClass, &'static str, String) {
    let server = server_at(path);
    let message = match source.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => format!(
            "no server at {}: is KVS-LocalServer running? \
             (KVS_SOCKET or --socket names another path)",
            Unquoted(path.as_os_str().as_encoded_bytes())
        ),
        ErrorKind::PermissionDenied => {
            format!("your user may not connect to {server}: its administrator can grant access")
        }
        _ => format!("cannot connect to {server}: {source}"),
    };
    (ErrorClass::NoConnection, "no_server", message)
}

fn classify_invalid(what: &str, why: &Invalid) -> (ErrorClass, &'static str, String) {
    match why {
        // For example: "17 bytes are too long: at most 16 are allowed".
        Invalid::TooLong { .. }
        | Invalid::TooMany { .. }
        | Invalid::Text(TextError::TooLong(_)) => {
            (ErrorClass::Limit, "too_large", format!("the {what} does not fit: {why}"))
        }
        Invalid::Empty => (ErrorClass::Usage, "usage", format!("the {what} is empty")),
        why => (ErrorClass::Usage, "usage", format!("the {what} is invalid: {why}")),
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn broken() -> io::Error {
        ErrorKind::BrokenPipe.into()
    }

    #[test]
    fn every_library_error_has_its_exit_code() {
        use kvs::Error as E;
        let path = || PathBuf::from("/run/s");
        let connect = |kind: ErrorKind| E::Connect { path: path(), source: kind.into() };
        let too_long = Invalid::TooLong { len: 2, max: 1 };
        let codes = [
            (E::NoSuchKey, 1, "no_such_key"),
            (E::Invalid { what: "key", why: Invalid::Empty }, 2, "usage"),
            (E::Invalid { what: "key", why: Invalid::Text(TextError::Nul(0)) }, 2, "usage"),
            (E::Invalid { what: "KVS_PROTOCOL", why: Invalid::Protocol }, 2, "usage"),
            (connect(ErrorKind::NotFound), 3, "no_server"),
            (connect(ErrorKind::ConnectionRefused), 3, "no_server"),
            (connect(ErrorKind::PermissionDenied), 3, "no_server"),
            (connect(ErrorKind::TimedOut), 3, "no_server"),
            (E::ReceiveGreeting(broken()), 3, "no_server"),
            (E::ReceiveGreeting(ErrorKind::TimedOut.into()), 3, "timed_out"),
            (E::ReceiveLogin(broken()), 3, "no_login"),
            (E::NotConnected, 3, "connection_lost"),
            (E::SendCode(broken()), 3, "connection_lost"),
            (E::ReceiveReady(broken()), 3, "connection_lost"),
            (E::SendText(broken()), 3, "connection_lost"),
            (E::ReceiveResponse(broken()), 3, "connection_lost"),
            (E::ReceiveResponse(ErrorKind::TimedOut.into()), 3, "timed_out"),
            (E::ReceiveValue(broken()), 3, "connection_lost"),
            (E::BadResponse(7), 3, "connection_lost"),
            (E::BadLength(-1), 3, "connection_lost"),
            (E::BadValue, 3, "connection_lost"),
            (E::BadFrame(kvs::Malformed::Unexpected(1)), 3, "connection_lost"),
            (E::NoSuchGroup, 4, "no_such_group"),
            (E::WrongSecret, 4, "wrong_secret"),
            (E::Refused(0), 4, "refused"),
            (E::Conflict(3), 5, "conflict"),
            (E::Invalid { what: "value", why: too_long }, 6, "too_large"),
            (
                E::Invalid { what: "secret", why: Invalid::Text(TextError::TooLong(100)) },
                6,
                "too_large",
            ),
            (E::TooLarge, 6, "too_large"),
            (E::LimitReached, 6, "limit"),
            (E::LimitClosed, 6, "limit"),
            (E::NotReady(0), 6, "limit"),
            (E::Unsupported, 6, "unsupported"),
            (E::Socket(broken()), 7, "system"),
            (E::Close(broken()), 7, "system"),
            (E::Bind { path: path(), source: broken() }, 7, "system"),
            (E::Busy, 7, "system"),
            (E::CallbackRuns, 7, "system"),
            (E::System(broken()), 7, "system"),
            (E::NotWatched, 7, "system"),
            (E::AlreadyConnected, 7, "system"),
        ];
        for (error, exit_code, name) in codes {
            let shown = format!("{error:?}");
            let (class, actual, message) = classify(&error, Path::new("/run/s"), b"weather");
            assert_eq!((class.exit_code(), actual), (exit_code, name), "{shown}");
            assert!(message.len() > 10 && !message.ends_with('.'), "{message}");
        }
    }
}
