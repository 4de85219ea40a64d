//! Connections of the tests' own process, through the Rust wrapper.

use kvs_tests::{DEADLINE, Sockets};

/// Opens one to this server.
pub(crate) fn connect(
    server: &impl Sockets,
    group: &str,
    secret: &str,
) -> Result<kvs::Connection, kvs::Error> {
    kvs::Connection::builder()
        .socket(server.socket())
        .callback_socket(server.callback_socket())
        .timeout(DEADLINE)
        .open(group, secret)
}
