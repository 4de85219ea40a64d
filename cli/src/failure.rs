//! What can go wrong, as a sentence for people, as a name for programs, and as an exit code for scripts.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use kvs::{Invalid, TextError, Version};

use crate::output::{Object, bytes_field};
use crate::words::{Plain, Quoted};

/// The names of the exit codes, for `--json`. The codes are promised in `arguments`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    NoSuchKey,
    Usage,
    NoConnection,
    Refused,
    Conflict,
    Limit,
    System,
}

impl Kind {
    fn exit_code(self) -> u8 {
        match self {
            Self::NoSuchKey => 1,
            Self::Usage => 2,
            Self::NoConnection => 3,
            Self::Refused => 4,
            Self::Conflict => 5,
            Self::Limit => 6,
            Self::System => 7,
        }
    }
}

/// What a shell says of a program that SIGINT has ended.
const INTERRUPTED: u8 = 130;

/// Why a command was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("there is no key {} in the group {}", Quoted(key), Quoted(group))]
    NoSuchKey { key: Vec<u8>, group: Vec<u8> },
    /// An original session watches only keys that exist.
    #[error(
        "there is no key {} in the group {}, and an original session can only watch keys that exist: put it first",
        Quoted(key),
        Quoted(group)
    )]
    NothingToWatch { key: Vec<u8>, group: Vec<u8> },
    #[error("the key {} {}: nothing was changed", Quoted(key), the_version(*version))]
    Conflict { key: Vec<u8>, version: Version },
    #[error("which group? --group GROUP or KVS_GROUP names it, and at the prompt: connect GROUP")]
    NoGroup,
    #[error(
        "what is the secret of the group {}? KVS_SECRET_FILE or --secret-file FILE names a file with it, KVS_SECRET has it itself, and on a terminal it is asked for",
        Quoted(group)
    )]
    NoSecret { group: Vec<u8> },
    /// Ctrl-C where the secret was asked for.
    #[error("interrupted")]
    Interrupted,
    #[error("the secret was not read from the terminal: {0}")]
    Asking(#[source] io::Error),
    #[error("the secret file {} cannot be read: {source}", Quoted(path.as_os_str().as_encoded_bytes()))]
    SecretFile { path: PathBuf, source: io::Error },
    #[error("the secret file {} has no secret in its first line", Quoted(path.as_os_str().as_encoded_bytes()))]
    EmptySecret { path: PathBuf },
    /// The library or the server says so, in this sentence.
    #[error("{sentence}")]
    Said { name: &'static str, sentence: String, exit_code: u8 },
    #[error(
        "the connection to {} has ended: it has quit or was killed, or the group {} was deleted",
        place(socket),
        Quoted(group)
    )]
    Ended { socket: PathBuf, group: Vec<u8> },
    /// Something that was typed.
    #[error("{0}")]
    Usage(String),
    #[error("standard input cannot be read: {0}")]
    Input(#[source] io::Error),
    #[error("standard output cannot be written: {0}")]
    Output(#[source] io::Error),
    /// The reader of standard output has gone: it has read enough.
    #[error("nobody reads standard output any more")]
    NobodyReads,
    #[error("the prompt does not work on this terminal: {0}")]
    Terminal(String),
    /// Some of several keys failed, each of which has been told.
    #[error("not all was done")]
    Told { exit_code: u8 },
}

impl Failure {
    /// What the library's `error` means, for a connection to `socket` and this group.
    pub(crate) fn of_library(error: kvs::Error, socket: &Path, group: &[u8]) -> Self {
        let (kind, name, sentence) = classify(&error, socket, group);
        Self::Said { name, sentence, exit_code: kind.exit_code() }
    }

    /// What a failed write to standard output means.
    pub(crate) fn of_output(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::BrokenPipe => Self::NobodyReads,
            _ => Self::Output(error),
        }
    }

    /// Whether it is not worth a word.
    pub(crate) fn is_silent(&self) -> bool {
        matches!(self, Self::NobodyReads | Self::Told { .. })
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::NobodyReads => 0,
            Self::Told { exit_code } | Self::Said { exit_code, .. } => *exit_code,
            Self::NoSuchKey { .. } | Self::NothingToWatch { .. } => Kind::NoSuchKey.exit_code(),
            Self::Conflict { .. } => Kind::Conflict.exit_code(),
            Self::NoGroup | Self::NoSecret { .. } | Self::EmptySecret { .. } | Self::Usage(_) => {
                Kind::Usage.exit_code()
            }
            Self::Ended { .. } => Kind::NoConnection.exit_code(),
            Self::Interrupted => INTERRUPTED,
            Self::Asking(_)
            | Self::SecretFile { .. }
            | Self::Input(_)
            | Self::Output(_)
            | Self::Terminal(_) => Kind::System.exit_code(),
        }
    }

    /// Its name for programs: never changed, as they rely on it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::NoSuchKey { .. } | Self::NothingToWatch { .. } => "no_such_key",
            Self::Conflict { .. } => "conflict",
            Self::NoGroup => "no_group",
            Self::NoSecret { .. } | Self::EmptySecret { .. } => "no_secret",
            Self::Said { name, .. } => name,
            Self::Ended { .. } => "connection_lost",
            Self::Usage(_) => "usage",
            Self::Interrupted => "interrupted",
            Self::Asking(_)
            | Self::SecretFile { .. }
            | Self::Input(_)
            | Self::Output(_)
            | Self::Terminal(_)
            | Self::NobodyReads
            | Self::Told { .. } => "system",
        }
    }

    /// The same for `--json`.
    pub(crate) fn object(&self) -> Object {
        let mut object = Object::new();
        object.text("error", self.name());
        object.text("message", &self.to_string());
        match self {
            Self::NoSuchKey { key, .. } | Self::NothingToWatch { key, .. } => {
                bytes_field(&mut object, "key", key);
            }
            Self::Conflict { key, version } => {
                bytes_field(&mut object, "key", key);
                object.number("version", *version);
            }
            _ => {}
        }
        object.number("exit_code", self.exit_code().into());
        object
    }
}

fn the_version(version: Version) -> String {
    match version {
        0 => "does not exist".into(),
        version => format!("has the version {version}"),
    }
}

fn place(socket: &Path) -> String {
    format!("the server at {}", Plain(socket.as_os_str().as_encoded_bytes()))
}

/// The kind of an error of the library, its name, and what happened, to whom, and what to do.
fn classify(error: &kvs::Error, socket: &Path, group: &[u8]) -> (Kind, &'static str, String) {
    use kvs::Error as E;
    let server = place(socket);
    match error {
        E::Connect { path, source } => connecting(path, source),
        E::ReceiveGreeting(source) => (
            Kind::NoConnection,
            if is_late(source) { "timed_out" } else { "no_server" },
            format!("{server} does not greet ({source}): is it stopped, or at its limit of open files?"),
        ),
        E::ReceiveLogin(source) => (
            Kind::NoConnection,
            "no_login",
            format!(
                "{server} does not answer the login ({source}): is the authentication server away, or were there too many wrong secrets just before?"
            ),
        ),
        E::Refused(_) => (
            Kind::Refused,
            "refused",
            format!(
                "{server} refuses the connection: your user or process may have too many already, and the server's log says more"
            ),
        ),
        E::NoSuchGroup => (
            Kind::Refused,
            "no_such_group",
            format!(
                "{server} has no group {}: its administrator makes one with kvs admin create",
                Quoted(group)
            ),
        ),
        E::WrongSecret => (
            Kind::Refused,
            "wrong_secret",
            format!(
                "{server} refuses the secret: the group {} has another one, which kvs admin info tells its administrator",
                Quoted(group)
            ),
        ),
        E::NoSuchKey => (Kind::NoSuchKey, "no_such_key", error.to_string()),
        E::Conflict(_) => (Kind::Conflict, "conflict", error.to_string()),
        E::Invalid { what, why } => invalid(what, why),
        E::TooLarge => (Kind::Limit, "too_large", format!("{server} does not take it: {error}")),
        E::LimitReached | E::LimitCloses => (
            Kind::Limit,
            "limit",
            format!("{server} stores no more for your user, who is at its limit of pairs or bytes (the server's log says which)"),
        ),
        E::NotReady(_) => (
            Kind::Limit,
            "limit",
            format!("{server} has closed the connection: your user may be at its limit of pairs or bytes (the server's log says which)"),
        ),
        E::Unsupported => (
            Kind::Limit,
            "unsupported",
            "an original session cannot do that, and this is one because of the server, of KVS_PROTOCOL or of a group name over 95 bytes".into(),
        ),
        E::NotConnected => {
            (Kind::NoConnection, "connection_lost", format!("the connection to {server} is lost"))
        }
        E::SendCode(source)
        | E::ReceiveReady(source)
        | E::SendText(source)
        | E::ReceiveAnswer(source)
        | E::ReceiveValue(source)
            if is_late(source) =>
        {
            let sentence = format!(
                "{server} has not answered in time, and the connection is closed (KVS_TIMEOUT_MS or --timeout sets how long that is)"
            );
            (Kind::NoConnection, "timed_out", sentence)
        }
        closing if closing.closes() => (
            Kind::NoConnection,
            "connection_lost",
            format!("the connection to {server} is lost: {closing}"),
        ),
        // Sockets, threads, memory; what only C programs meet; and what a later version of the library adds.
        other => (Kind::System, "system", other.to_string()),
    }
}

fn connecting(path: &Path, source: &io::Error) -> (Kind, &'static str, String) {
    let shown = Plain(path.as_os_str().as_encoded_bytes());
    let sentence = match source.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => format!(
            "no server at {shown}: is KVS-LocalServer running? (KVS_SOCKET or --socket names another path)"
        ),
        ErrorKind::PermissionDenied => {
            format!(
                "your user may not connect to the server at {shown}: its administrator says who may"
            )
        }
        _ => format!("connecting to the server at {shown} failed: {source}"),
    };
    (Kind::NoConnection, "no_server", sentence)
}

fn invalid(what: &str, why: &Invalid) -> (Kind, &'static str, String) {
    match why {
        // "17 bytes are too long: at most 16 are allowed"
        Invalid::TooLong { .. }
        | Invalid::TooMany { .. }
        | Invalid::Text(TextError::TooLong(_)) => {
            (Kind::Limit, "too_large", format!("the {what} does not fit: {why}"))
        }
        Invalid::Empty => (Kind::Usage, "usage", format!("the {what} is empty")),
        why => (Kind::Usage, "usage", format!("the {what} cannot be used: {why}")),
    }
}

fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(error: kvs::Error) -> (u8, &'static str, String) {
        let failure = Failure::of_library(error, Path::new("/run/s"), b"weather");
        (failure.exit_code(), failure.name(), failure.to_string())
    }

    fn broken() -> io::Error {
        ErrorKind::BrokenPipe.into()
    }

    #[test]
    fn each_error_of_the_library_has_its_exit_code() {
        use kvs::Error as E;
        let path = || PathBuf::from("/run/s");
        let connect = |kind: ErrorKind| E::Connect { path: path(), source: kind.into() };
        let too_long = Invalid::TooLong { len: 2, most: 1 };
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
            (E::ReceiveAnswer(broken()), 3, "connection_lost"),
            (E::ReceiveAnswer(ErrorKind::TimedOut.into()), 3, "timed_out"),
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
            (E::LimitCloses, 6, "limit"),
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
            let (code, named, sentence) = of(error);
            assert_eq!((code, named), (exit_code, name), "{shown}");
            assert!(sentence.len() > 10 && !sentence.ends_with('.'), "{sentence}");
        }
    }

    #[test]
    fn a_sentence_says_what_happened_to_whom_and_what_to_do() {
        let path = PathBuf::from("/run/s");
        let (_, _, sentence) = of(kvs::Error::Connect { path, source: ErrorKind::NotFound.into() });
        assert_eq!(
            sentence,
            "no server at /run/s: is KVS-LocalServer running? (KVS_SOCKET or --socket names another path)"
        );
        let missing =
            Failure::NoSuchKey { key: b"temperature".to_vec(), group: b"weather".to_vec() };
        assert_eq!(missing.to_string(), "there is no key \"temperature\" in the group \"weather\"");
        let conflict = |version| Failure::Conflict { key: b"k".to_vec(), version }.to_string();
        assert_eq!(conflict(7), "the key \"k\" has the version 7: nothing was changed");
        assert_eq!(conflict(0), "the key \"k\" does not exist: nothing was changed");
    }

    #[test]
    fn a_failure_is_an_object_for_programs() {
        let failure = Failure::Conflict { key: b"\xff".to_vec(), version: 7 };
        assert_eq!(
            failure.object().to_string(),
            r#"{"error":"conflict","message":"the key \"\\xff\" has the version 7: nothing was changed","key_base64":"/w==","version":7,"exit_code":5}"#
        );
    }
}
