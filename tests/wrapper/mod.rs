//! Connections of the tests' own process, through the Rust wrapper.

use kvs_testkit::{DEADLINE, Session, Sockets};

/// Opens one to this server.
#[allow(dead_code, reason = "some tests need the other one only")]
pub(crate) fn connect(
    server: &impl Sockets,
    group: &str,
    secret: &str,
) -> Result<kvs::Connection, kvs::Error> {
    builder(server, Session::Framed).open(group, secret)
}

/// Opens connections to this server, which speak this kind of session.
pub(crate) fn builder(server: &impl Sockets, session: Session) -> kvs::Builder {
    kvs::Connection::builder()
        .socket(server.socket())
        .callback_socket(server.callback_socket())
        .timeout(DEADLINE)
        .protocol(match session {
            Session::Original => kvs::Protocol::V1,
            Session::Framed => kvs::Protocol::V2,
        })
}
